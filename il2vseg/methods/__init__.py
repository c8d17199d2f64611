"""Training methods, one file each. A method is one file and one row of `METHODS`.

`METHODS` names the classes without importing them: flags and tables list the methods before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from il2vseg.base.errors import UserError

if TYPE_CHECKING:
    from il2vseg.methods.base import Method

METHODS: dict[str, str] = {
    "kmeans": "il2vseg.methods.kmeans:KMeans",
    "iic": "il2vseg.methods.iic:IIC",
    "mdc": "il2vseg.methods.mdc:MDC",
    "picie": "il2vseg.methods.picie:PiCIE",
    "picie_h": "il2vseg.methods.picie:PiCIEH",
    "slotcon": "il2vseg.methods.slotcon:SlotCon",
    "transfgu": "il2vseg.methods.transfgu:TransFGU",
    "smooseg": "il2vseg.methods.smooseg:SmooSeg",
    "stego": "il2vseg.methods.stego:Stego",
    "hp": "il2vseg.methods.hp:HP",
    "eagle": "il2vseg.methods.eagle:Eagle",
    "primaps": "il2vseg.methods.primaps:PriMaPs",
    "cause": "il2vseg.methods.cause:Cause",
    "joint": "il2vseg.methods.joint:Joint",
    "paper": "il2vseg.methods.paper:Paper",
    "il2vseg": "il2vseg.methods.il2vseg:IL2Vseg",
}
"""Name of every method, and MODULE:CLASS of its `Method`."""

WITHOUT_STEPS = ("kmeans", "il2vseg")
"""Those that cluster and train nothing: they have no stages, and no steps to choose."""

DEFAULT_METHOD = "il2vseg"


def load_method(name: str) -> "type[Method]":
    """Import the class of a method of `METHODS`; an instance of it holds the method's settings.

    Raises:
        UserError: there is no such row.
    """
    if name not in METHODS:
        raise UserError(f"unknown method '{name}'; known: {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    method: type[Method] = getattr(import_module(module), attribute)
    return method
