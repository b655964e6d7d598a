"""DeepReg's methods as RegCore builds them: predictions, the log, and weights after steps of training."""

import numpy as np
import torch

from RegCore.deepreg.keras_weights import from_state, to_state
from RegCore.networks.models import build_model, warped
from RegCore.registration.optimisers import make_optimiser
from RegCore.training.gradients import evaluate, predict
from RegCore.training.objective import Objective, summary
from Testing.golden.layout import channels_last, one_channel
from Testing.steps import train_step

OPTIMISERS = {
    "sgd1": ({"name": "SGD", "learning_rate": 0.1}, 1),
    "adam2": ({"name": "Adam", "learning_rate": 1e-3}, 2),
}


def model_of(case: dict, arrays: dict) -> torch.nn.Module:
    """The model of a case with its recorded weights, in evaluation mode."""
    train = {**case["config"]["train"], "method": case["method"], "deepreg": True}
    model = build_model(
        train, case["fixed_image_size"], case["moving_image_size"], labeled=case["labeled"]
    ).eval()
    weights = {name[2:]: array for name, array in arrays.items() if name.startswith("w:")}
    model.backbone.load_state_dict(to_state(weights, model.backbone))
    return model


def batch_of(arrays: dict) -> dict:
    """The images and labels of a case as a batch."""
    names = ("fixed_image", "moving_image", "fixed_label", "moving_label")
    return {name: one_channel(arrays[name]) for name in names if name in arrays}


def objective_of(case: dict) -> Objective:
    """The loss of a case."""
    return Objective.from_config(case["config"]["train"]["loss"], labeled=case["labeled"], deepreg=True)


def trained(case: dict, arrays: dict, optimiser: dict, steps: int) -> tuple[torch.nn.Module, list[dict]]:
    """The model after steps of training on the case's batch, and what was logged in each."""
    model, batch = model_of(case, arrays).train(), batch_of(arrays)
    made = make_optimiser(optimiser, model.parameters())
    logged = [train_step(model, objective_of(case), made, [batch]) for _ in range(steps)]
    return model, logged


def _predictions(case: dict, arrays: dict, mode: str) -> dict[str, np.ndarray]:
    model, batch = model_of(case, arrays).train(mode == "train"), batch_of(arrays)
    with torch.no_grad():
        found = predict(model, batch)
        image, label = warped(found, batch["moving_image"], batch.get("moving_label"), border="zero_boundary")
    fields = {"ddf": found.ddf, "dvf": found.dvf}
    made = {name: channels_last(field) for name, field in fields.items() if field is not None}
    scalars = {"pred_fixed_image": image, "pred_fixed_label": label}
    made |= {name: values[:, 0].numpy() for name, values in scalars.items() if values is not None}
    if found.theta is not None:
        made["theta"] = found.theta.numpy()
    return {f"{mode}:{name}": values for name, values in made.items()}


def _model(case: dict, arrays: dict) -> dict[str, np.ndarray]:
    made = _predictions(case, arrays, "infer") | _predictions(case, arrays, "train")
    for name, options in OPTIMISERS.items():
        if any(output.startswith(f"{name}:") for output in case["outputs"]):
            model, _ = trained(case, arrays, *options)
            made |= {f"{name}:{path}": array for path, array in from_state(model.backbone).items()}
    return made


def logged(case: dict, arrays: dict) -> dict:
    """What is logged for the case, by the names in its entry."""
    found = evaluate(model_of(case, arrays), objective_of(case), batch_of(arrays))
    _, (first, second) = trained(case, arrays, *OPTIMISERS["adam2"])
    return {
        "metrics_infer": summary(found),
        "metrics_train_step": first,
        "adam_step1_loss": first["loss"],
        "adam_step2_loss": second["loss"],
    }


FUNCTIONS = {f"model:{method}": _model for method in ("ddf", "dvf", "conditional")}
