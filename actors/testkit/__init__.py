"""The test kit: test your agents, tools and actors without a network, without a daemon and without waiting.

Nothing here needs pytest but `actors.testkit.fixtures`, which is never imported by itself.
"""

from actors.testkit.acting import Stage
from actors.testkit.effects import Effects, run_one
from actors.testkit.leftovers import leaks
from actors.testkit.model import ScriptedModel
from actors.testkit.probe import Probe
from actors.testkit.staging import stage
from actors.testkit.tools import Notes, as_tool, run_tool
from actors.testkit.virtual import VirtualLoop, hold_time, run_virtually, virtual_backend

__all__ = [
    "Effects",
    "Notes",
    "Probe",
    "ScriptedModel",
    "Stage",
    "VirtualLoop",
    "as_tool",
    "hold_time",
    "leaks",
    "run_one",
    "run_tool",
    "run_virtually",
    "stage",
    "virtual_backend",
]
