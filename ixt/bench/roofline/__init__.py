"""How fast a model could run on a device, by the device's peaks.

    from ixt.bench.roofline import find_device, limits
    from ixt.models import model_costs

    costs = model_costs("inceptionnext_tiny", 224)
    ceiling = limits(costs, find_device("h100"), "bf16", batch=128, mode="train")
    print(ceiling.images_per_s, ceiling.memory_images_per_s, ceiling.compute_images_per_s)

No GPU is needed and nothing is computed.
"""

from ixt.bench.roofline.devices import Device, Precision, find_device, known_devices
from ixt.bench.roofline.limits import Limits, limits, mfu

__all__ = ["Device", "Limits", "Precision", "find_device", "known_devices", "limits", "mfu"]
