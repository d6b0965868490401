"""The whole workflow from Python: calibrate, train, sample, classify.    python python_api.py [OUT] [STEPS] [IMAGES]"""

from __future__ import annotations

import sys
from pathlib import Path

from dpdm_cli import calibrate, classify, sample, train


def main(out: Path, steps: int, images: int) -> None:
    plan = calibrate(
        "digits",
        epsilon=10,
        batch_size=128,
        steps=steps,
        warm_start="moments",
        warm_share=0.3,
    ).plan
    print(
        f"sigma {plan.sigma} keeps {plan.steps} steps at rate {plan.sample_rate:.4f} within epsilon 10"
    )

    # Of images of your own also say what is public: dataset_size=, classes=, image_size= and channels=, or
    # public_metadata=True for what is read off them.
    run = train("digits", out / "run", epsilon=10, batch_size=128, steps=steps)
    print(run.statement.text)

    synthetic = sample(run.model, out / "synth", n=images)
    print(f"{synthetic.n} images in {synthetic.folder}")

    scores = classify(synthetic.images, test="digits", models=["logreg"])
    print(scores.to_dict()["logreg"])


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        Path(arguments[0] if arguments else "runs/python-api"),
        int(arguments[1]) if len(arguments) > 1 else 300,
        int(arguments[2]) if len(arguments) > 2 else 2000,
    )
