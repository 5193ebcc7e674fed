"""The mathematics: each operation once, forward beside backward, in plain array code."""

from minires.functional.augmentation import augment_batch
from minires.functional.batch_norm import batch_norm_backward, batch_norm_forward
from minires.functional.conv import conv2d_backward, conv2d_forward
from minires.functional.distortion import color_jitter, cutout
from minires.functional.dropout import dropout_backward, dropout_forward
from minires.functional.fused import (
    EvaluationUnit,
    conv_bn_relu_backward,
    conv_bn_relu_forward,
    evaluate_units,
)
from minires.functional.linear import linear_backward, linear_forward
from minires.functional.loss import (
    cross_entropy_backward,
    cross_entropy_forward,
    soft_cross_entropy_forward,
)
from minires.functional.loss_scaling import unscale_in_place, update_scale
from minires.functional.mixing import cutmix, mixup, take_images
from minires.functional.optimizer import adam_step, average_step, rmsprop_step, sgd_step
from minires.functional.pooling import (
    global_avg_pool_backward,
    global_avg_pool_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from minires.functional.relu import relu_backward, relu_forward
from minires.functional.resizing import (
    flatten_backward,
    flatten_forward,
    upsample_backward,
    upsample_forward,
)
from minires.functional.shortcut import add, shortcut_a_backward, shortcut_a_forward

__all__ = [
    "EvaluationUnit",
    "adam_step",
    "add",
    "augment_batch",
    "average_step",
    "batch_norm_backward",
    "batch_norm_forward",
    "color_jitter",
    "conv2d_backward",
    "conv2d_forward",
    "conv_bn_relu_backward",
    "conv_bn_relu_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "cutmix",
    "cutout",
    "dropout_backward",
    "dropout_forward",
    "evaluate_units",
    "flatten_backward",
    "flatten_forward",
    "global_avg_pool_backward",
    "global_avg_pool_forward",
    "linear_backward",
    "linear_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "mixup",
    "relu_backward",
    "relu_forward",
    "rmsprop_step",
    "sgd_step",
    "shortcut_a_backward",
    "shortcut_a_forward",
    "soft_cross_entropy_forward",
    "take_images",
    "unscale_in_place",
    "update_scale",
    "upsample_backward",
    "upsample_forward",
]
