from .checks import Audit as Audit
from .checks import audited as audited
from .document import write_audit as write_audit
from .finding import Finding as Finding
from .study import Study as Study

__all__ = ["Audit", "Finding", "Study", "audited", "write_audit"]
