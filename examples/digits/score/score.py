"""Scores handwritten digits: takes {"images": [[64 pixels], ...]}, answers {"digits": [7, ...]}."""

import json
import os
from pathlib import Path

import joblib

model = None


def init():
    global model
    found = sorted(Path(os.environ["AZUREML_MODEL_DIR"]).rglob("model.joblib"))
    model = joblib.load(found[0])
    print(f"loaded {found[0]}", flush=True)


def run(raw_data):
    images = json.loads(raw_data)["images"]
    return {"digits": model.predict(images).tolist()}
