"""Where programs' time went: a read model of the call log."""

from services.workflow.explain.explainer import Explainer
from services.workflow.explain.records import CacheNote, Detail, Drift, ExplainedCall, ExplainedTool, Explanation

__all__ = ["CacheNote", "Detail", "Drift", "ExplainedCall", "ExplainedTool", "Explainer", "Explanation"]
