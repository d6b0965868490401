"""What a record of a run is: one image, or one person with any number of images."""

from __future__ import annotations

import torch
from torch import Tensor

from dpdm_cli.choices import Unit
from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.errors import PrivacyError, UsageError


class People:
    """The images of each person.

    Args:
        persons: whose each image is, int64 [n] with values from 0 to P - 1, each of which has an image.

    Attributes:
        persons: as given.
        images_of: how many images each person has, int64 [P].

    Raises:
        PrivacyError: a person without an image, in whose place another one's would be taken.
    """

    def __init__(self, persons: Tensor) -> None:
        self.persons = persons
        self.images_of = torch.bincount(persons)
        if (self.images_of == 0).any():
            raise PrivacyError(
                "some persons have no image", "number those who have from 0 on, without gaps"
            )
        self._by_person = torch.argsort(persons, stable=True)
        self._first = torch.cumsum(self.images_of, 0) - self.images_of

    def to(self, device: torch.device) -> People:
        """The same, for choices on a device."""
        return People(self.persons.to(device))

    def __len__(self) -> int:
        return len(self.images_of)

    def choose(self, people: Tensor, copies: int, noise: KeyedNoise) -> Tensor:
        """One image of a person at random for each noisy copy, with replacement.

        A person's choices are a function of their own key and number of images, so that nobody else's gradient changes
        with them: under a secret key any rule of that kind keeps the clip the only thing that privacy rests on.

        Args:
            people: int64 [b].
            copies: K.
            noise: keyed by person, as for the losses; the choices are its next draw.

        Returns:
            Indices of images, int64 [b * K], person-major.
        """
        places = noise.below(self.images_of[people], copies) + self._first[people, None]
        return self._by_person[places.flatten()]


def people_in(images: ImageSet, unit: Unit) -> People | None:
    """The people of a run whose records they are; None for a run whose records are images.

    Raises:
        UsageError: nobody has said whose the images are.
    """
    if unit == "image":
        return None
    if images.persons is None:
        raise UsageError(
            f"{images.name}: --unit person needs to know whose each image is",
            "lay the folder out as class/person/image or person/class/image and say so with --layout, name the column "
            "of a table with --person-column, or put an array `persons` [N] into an .npz file",
        )
    return People(images.persons)
