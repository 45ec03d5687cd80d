"""`serving` by itself, for vLLM's environment.

Beside an installed Tuneline stand torch and transformers of other versions, which that environment must not
import. What vLLM loads of `serving` needs nothing but the standard library.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[3])]
