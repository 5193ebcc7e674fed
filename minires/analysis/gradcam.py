r"""Grad-CAM: which places of an image speak for a class.

With maps $A_k$ (one per channel) of some layer and the logit $z_c$ of a class, each map is weighted
with its mean gradient, $\alpha_k = \mathrm{mean}_{ij}\, \partial z_c / \partial A_{kij}$, and
$\mathrm{relu}(\sum_k \alpha_k A_k)$ is high where the maps speak for the class.

There is no tape to ask for the gradient in the middle: the parts behind the layer are run forward
one by one, and then backward, each by its own hand-written backward pass.

Source: Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based
localization", section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minires.analysis.chain import chain_of, find_maps, gradients_in_evaluation
from minires.backend import Array, array_module, to_host
from minires.models.network import Network


@dataclass(frozen=True)
class GradCam:
    """What `gradcam` found: `heat` float32 (N, h, w) from 0 to 1, of the maps of `layer`.

    `logits` are the network's, float32 (N, K), and `classes` those that were asked about, (N,).
    """

    layer: str
    heat: np.ndarray
    logits: np.ndarray
    classes: np.ndarray


def gradcam(
    model: Network, x: Array, classes: np.ndarray | None = None, layer: str | None = None
) -> GradCam:
    """Where in each image x (N, 3, H, W) the maps of `layer` speak for `classes`, int64 (N,).

    classes: None stands for the network's answers. layer: a block such as layer3.0 or a stage such
    as layer3; None: the last one whose maps have at least 4 x 4 pixels. Each image's heat is
    divided by its maximum. Raises `UsageError` for a layer that has no maps.
    """
    layer = find_maps(model, x, layer)
    with gradients_in_evaluation(model):
        maps, gradient, logits, classes = maps_and_gradient(model, x, classes, layer)
    weights = gradient.mean(axis=(2, 3), keepdims=True)
    heat = np.maximum((weights * maps).sum(axis=1), 0)
    highest = heat.max(axis=(1, 2), keepdims=True)
    return GradCam(layer, heat / np.where(highest > 0, highest, 1), logits, classes)


def maps_and_gradient(
    model: Network, x: Array, classes: np.ndarray | None, layer: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The maps of `layer` and the gradient of the classes' logits with respect to them.

    Returns (maps (N, C, h, w), gradient (N, C, h, w), logits (N, K), classes (N,)), all on the
    host. Call it inside `gradients_in_evaluation`.
    """
    chain = chain_of(model)
    behind = list(chain)[list(chain).index(layer) + 1 :]
    maps = None
    for name, module in chain.items():
        x = module(x)
        if name == layer:
            maps = to_host(x).copy()
    logits = to_host(x).copy()
    if classes is None:
        classes = logits.argmax(axis=1)
    # The logit of the class is a single number for each image: its gradient is 1 there, else 0.
    one_hot = (np.arange(logits.shape[1]) == classes[:, None]).astype(logits.dtype)
    gradient = array_module(x).asarray(one_hot)
    for name in reversed(behind):
        gradient = chain[name].backward(gradient)
    return maps, to_host(gradient).copy(), logits, classes
