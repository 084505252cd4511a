"""Where programs' time went, worked out from what the call log says of them."""

from services.workflow.explain.explainer import Explainer, name_of
from services.workflow.explain.records import Detail, Drift, ExplainedCall, ExplainedTool, Explanation

__all__ = ["Detail", "Drift", "ExplainedCall", "ExplainedTool", "Explainer", "Explanation", "name_of"]
