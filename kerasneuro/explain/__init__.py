"""What a network looked at: Grad-CAM, integrated gradients, occlusion, asymmetry, and their pictures."""

from __future__ import annotations

from kerasneuro.explain.asymmetry import asymmetry_map, find_midline
from kerasneuro.explain.figures import draw_montage
from kerasneuro.explain.grad_cam import GradCam, grad_cam, grad_cam_parts
from kerasneuro.explain.gradients import Gradients, gradients
from kerasneuro.explain.grids import resize_map, to_native
from kerasneuro.explain.head_view import draw_head
from kerasneuro.explain.integrated import IntegratedGradients, integrated_gradients
from kerasneuro.explain.occlusion import occlusion_sensitivity
from kerasneuro.explain.split import default_layer, feature_layers

__all__ = [
    "GradCam",
    "Gradients",
    "IntegratedGradients",
    "asymmetry_map",
    "default_layer",
    "draw_head",
    "draw_montage",
    "feature_layers",
    "find_midline",
    "grad_cam",
    "grad_cam_parts",
    "gradients",
    "integrated_gradients",
    "occlusion_sensitivity",
    "resize_map",
    "to_native",
]
