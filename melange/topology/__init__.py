"""The topology of a program: shown before it is made, compared with the broker, diagnosed, exported and drawn."""

from melange.topology.checks import Finding
from melange.topology.collecting import Collected, Publication, collect, of
from melange.topology.doctor import diagnose
from melange.topology.document import combined, from_document, to_document
from melange.topology.drift import make_plan
from melange.topology.model import (
    TOPOLOGY_TAG,
    DeclaredBinding,
    DeclaredListener,
    DeclaredPublisher,
    DeclaredQueue,
    DeclaredTopic,
    Topology,
)
from melange.topology.plan import Applied, Change, Difference, Plan, apply_plan

__all__ = [
    "TOPOLOGY_TAG",
    "Applied",
    "Change",
    "Collected",
    "DeclaredBinding",
    "DeclaredListener",
    "DeclaredPublisher",
    "DeclaredQueue",
    "DeclaredTopic",
    "Difference",
    "Finding",
    "Plan",
    "Publication",
    "Topology",
    "apply_plan",
    "collect",
    "combined",
    "diagnose",
    "from_document",
    "make_plan",
    "of",
    "to_document",
]
