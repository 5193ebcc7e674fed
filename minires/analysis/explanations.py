"""What `explain` knows by heart of each kind of layer: its formulas and where they are derived.

The formulas say what the functions named beside them compute. `g` is the gradient of the loss L
with respect to the layer's output y (`grad_output` in the code), `gx` that with respect to its
input, `gw` and `gb` those of its weight and bias. Sums run over all values of the indices below Σ.
"""

from __future__ import annotations

from dataclasses import dataclass

from minires.errors import UsageError
from minires.spelling import nearest


@dataclass(frozen=True)
class Explanation:
    """A kind of layer: the classes of it, its formulas, its functions and its chapters.

    `functions` are those that hold the mathematics, as "module:name". `model` is a network that
    has such a layer. `options` are what `models.build` needs for that.
    """

    says: str
    kinds: tuple[str, ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...]
    symbols: tuple[str, ...]
    functions: tuple[str, ...]
    chapters: tuple[int, ...]
    model: str = "resnet20"
    options: tuple[tuple[str, object], ...] = ()


def _pair(module: str, name: str) -> tuple[str, str]:
    """The two functions of an operation."""
    module = f"minires.functional.{module}"
    return f"{module}:{name}_forward", f"{module}:{name}_backward"


EXPLANATIONS: dict[str, Explanation] = {
    "conv": Explanation(
        says="Each output pixel is the dot product of a window of the input with a filter.",
        kinds=("Conv2d",),
        forward=("y[n,k,p,q] = b[k] + Σ(c,i,j) w[k,c,i,j] · xp[n, c, s·p + i, s·q + j]",),
        backward=(
            "gw[k,c,i,j] = Σ(n,p,q) g[n,k,p,q] · xp[n, c, s·p + i, s·q + j]",
            "gxp[n,c,u,v] = Σ(k,i,j,p,q with s·p + i = u, s·q + j = v) g[n,k,p,q] · w[k,c,i,j]",
            "gx = gxp without its border;  gb[k] = Σ(n,p,q) g[n,k,p,q]",
        ),
        symbols=(
            "x (N, C, H, W), and xp: x with zeros around; w (K, C, k, k); b (K,), often left out",
            "y and g (N, K, P, Q), P = floor((H + 2·padding - k) / s) + 1; s: the stride",
        ),
        functions=_pair("conv", "conv2d"),
        chapters=(5, 6),
    ),
    "batch-norm": Explanation(
        says="Each channel is shifted and scaled to mean 0 and variance 1, then to what it learns.",
        kinds=("BatchNorm2d", "BatchNorm1d"),
        forward=(
            "xhat = (x - mean) / sqrt(var + eps),   y = gamma · xhat + beta",
            "training: mean and var of the batch; evaluation: the running ones",
        ),
        backward=(
            "gbeta = Σ g,   ggamma = Σ g · xhat",
            "gx = gamma / sqrt(var + eps) · (g - (1/M) Σ g - xhat · (1/M) Σ g · xhat)",
        ),
        symbols=(
            "x, y, g (N, C, H, W); gamma, beta, mean, var (C,); M = N·H·W values in each channel",
            "Σ runs over the M values of a channel",
        ),
        functions=_pair("batch_norm", "batch_norm"),
        chapters=(7,),
    ),
    "relu": Explanation(
        says="Negative values become zero.",
        kinds=("ReLU",),
        forward=("y = max(x, 0)",),
        backward=("gx = g where x > 0, else 0 (at the kink, x = 0, too)",),
        symbols=("x, y, g: any shape, value by value",),
        functions=_pair("relu", "relu"),
        chapters=(8,),
    ),
    "max-pool": Explanation(
        says="Each window keeps its largest value.",
        kinds=("MaxPool2d",),
        forward=("y[n,c,p,q] = max(i,j) xp[n, c, s·p + i, s·q + j]",),
        backward=("gx[n,c,u,v] = Σ g[n,c,p,q] over the windows (p, q) that the pixel (u, v) won",),
        symbols=("x (N, C, H, W), xp: x with -inf around; y, g (N, C, P, Q); s: the stride",),
        functions=_pair("pooling", "max_pool2d"),
        chapters=(8,),
        model="resnet9",
    ),
    "average-pool": Explanation(
        says="Each channel becomes its mean.",
        kinds=("GlobalAvgPool",),
        forward=("y[n,c] = (1 / (H·W)) Σ(h,w) x[n,c,h,w]",),
        backward=("gx[n,c,h,w] = g[n,c] / (H·W)",),
        symbols=("x (N, C, H, W); y, g (N, C)",),
        functions=_pair("pooling", "global_avg_pool"),
        chapters=(8,),
    ),
    "linear": Explanation(
        says="Each score is a dot product of the input with a row of weights, plus a bias.",
        kinds=("Linear",),
        forward=("y[n,k] = b[k] + Σ(c) x[n,c] · w[k,c]",),
        backward=(
            "gx[n,c] = Σ(k) g[n,k] · w[k,c]",
            "gw[k,c] = Σ(n) g[n,k] · x[n,c],   gb[k] = Σ(n) g[n,k]",
        ),
        symbols=("x (N, C), w (K, C), b (K,); y, g (N, K)",),
        functions=_pair("linear", "linear"),
        chapters=(2,),
    ),
    "dropout": Explanation(
        says="In training a random share p of the values becomes zero, the rest is scaled up.",
        kinds=("Dropout",),
        forward=("y = x · f, where f is 0 with probability p, else 1 / (1 - p)",),
        backward=("gx = g · f",),
        symbols=("x, y, g, f: any shape, value by value; in evaluation y = x",),
        functions=_pair("dropout", "dropout"),
        chapters=(8,),
        options=(("head_dropout", 0.5),),
    ),
    "upsample": Explanation(
        says="Each pixel becomes a square of equal pixels.",
        kinds=("Upsample",),
        forward=("y[n,c,p,q] = x[n, c, floor(p/f), floor(q/f)]",),
        backward=("gx[n,c,u,v] = Σ(i,j from 0 to f-1) g[n, c, f·u + i, f·v + j]",),
        symbols=("x (N, C, H, W); y, g (N, C, f·H, f·W); f: the factor",),
        functions=_pair("resizing", "upsample"),
        chapters=(10,),
        options=(("upsample", 2),),
    ),
    "flatten": Explanation(
        says="Each image becomes one vector.",
        kinds=("Flatten",),
        forward=("y[n] = the values of x[n], channel by channel, row by row",),
        backward=("gx = g in the shape of x",),
        symbols=("x (N, C, H, W); y, g (N, C·H·W)",),
        functions=_pair("resizing", "flatten"),
        chapters=(10,),
        model="resnet9",
    ),
    "shortcut": Explanation(
        says="Shortcut A: every s-th pixel, with channels of zeros around, so that shapes fit.",
        kinds=("ShortcutA",),
        forward=("y[n, first + c, p, q] = x[n, c, s·p, s·q], and 0 in all other channels",),
        backward=("gx[n, c, s·p, s·q] = g[n, first + c, p, q], and 0 at all other pixels",),
        symbols=("x (N, C, H, W); y, g (N, K, P, Q); s: the stride; first = (K - C) // 2",),
        functions=_pair("shortcut", "shortcut_a"),
        chapters=(9,),
    ),
    "projection": Explanation(
        says="Shortcut B: a 1x1 convolution and a batch norm, so that shapes fit.",
        kinds=("Projection",),
        forward=("y = batch_norm(conv(x)), with 1x1 filters and the block's stride",),
        backward=("gx = conv_backward(batch_norm_backward(g))",),
        symbols=("x (N, C, H, W); y, g (N, K, P, Q)",),
        functions=("minires.nn.residual:Projection",),
        chapters=(9,),
        model="resnet18",
    ),
    "residual": Explanation(
        says="The body learns what to add to its input; the shortcut carries the input past it.",
        kinds=("BasicBlock", "Bottleneck", "Residual"),
        forward=("y = relu(body(x) + shortcut(x))",),
        backward=(
            "r = g where y > 0, else 0",
            "gx = body_backward(r) + shortcut_backward(r): summed, because x went both ways",
        ),
        symbols=("x (N, C, H, W); y, g, r (N, K, P, Q); body: convolutions with batch norms",),
        functions=(
            "minires.nn.residual:ResidualBlock.forward",
            "minires.nn.residual:ResidualBlock.backward",
        ),
        chapters=(9,),
    ),
    "unit": Explanation(
        says="A convolution, its batch norm, a shortcut if there is one, and a ReLU, as one.",
        kinds=("ConvBNReLU", "ConvBlock", "Unit"),
        forward=("y = relu(batch_norm(conv(x)) + shortcut)",),
        backward=(
            "r = g where y > 0, else 0;   the shortcut's gradient is r",
            "gx = conv_backward(batch_norm_backward(r))",
        ),
        symbols=("x (N, C, H, W); y, g, r and the shortcut (N, K, P, Q)",),
        functions=_pair("fused", "conv_bn_relu"),
        chapters=(9,),
        model="resnet9",
    ),
    "loss": Explanation(
        says="Softmax turns scores into probabilities; the loss is -log of the right one's.",
        kinds=("CrossEntropyLoss",),
        forward=(
            "p[n,k] = exp(z[n,k]) / Σ(j) exp(z[n,j])",
            "L = -(1/N) Σ(n,k) t[n,k] · log p[n,k]",
        ),
        backward=("gz[n,k] = (p[n,k] - t[n,k]) / N",),
        symbols=(
            "z: logits (N, K); t: targets (N, K), 1 for the right class, else 0",
            "(label smoothing a: 1 - a + a/K and a/K instead)",
        ),
        functions=_pair("loss", "cross_entropy"),
        chapters=(3,),
    ),
}
"""Name as it is typed: explanation."""


def explanation_of(kind: str) -> Explanation | None:
    """The explanation for a class of layers by its name, such as Conv2d; None for containers."""
    return next((e for e in EXPLANATIONS.values() if kind in e.kinds), None)


def explanation_named(name: str, places: list[str]) -> Explanation:
    """The explanation that the user asked for; `UsageError` with the nearest name.

    places: the layers of the network at hand, which the user may have meant.
    """
    if name in EXPLANATIONS:
        return EXPLANATIONS[name]
    raise UsageError(f"LAYER {name}: unknown{nearest(name, [*EXPLANATIONS, *places][:400])}")
