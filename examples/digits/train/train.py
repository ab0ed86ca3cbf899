"""Trains a classifier on scikit-learn's handwritten digits and keeps the images it never saw for checking the served model."""

import argparse
import json
import time
from pathlib import Path

import joblib
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gamma", type=float, required=True)
    parser.add_argument("--c", type=float, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()

    split = json.loads(options.split.read_text())
    digits = load_digits()
    print(
        f"{len(digits.data)} images of {digits.images[0].shape[0]}x{digits.images[0].shape[1]} pixels, {split['held_out']} held out",
        flush=True,
    )
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data, digits.target, test_size=split["held_out"], random_state=split["seed"], stratify=digits.target
    )

    began = time.perf_counter()
    model = make_pipeline(StandardScaler(), SVC(gamma=options.gamma, C=options.c))
    model.fit(train_x, train_y)
    accuracy = model.score(test_x, test_y)
    print(
        f"trained on {len(train_x)} images in {time.perf_counter() - began:.2f} s, accuracy on the held-out ones {accuracy:.4f}", flush=True
    )

    options.model.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, options.model / "model.joblib")
    (options.model / "metrics.json").write_text(json.dumps({"accuracy": accuracy}))
    (options.model / "held_out.json").write_text(json.dumps({"images": test_x.tolist(), "digits": test_y.tolist()}))
    print(f"wrote {options.model}/model.joblib", flush=True)


if __name__ == "__main__":
    main()
