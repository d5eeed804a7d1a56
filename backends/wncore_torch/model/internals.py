"""What is used of transformers, public or not, imported in one place.

The names of `conversion_mapping` and `core_model_loading` are no public interface: nobody promises that they stay. A
version without them is refused here, in words, and not somewhere in the middle of a run.
"""

import os

from wncore.errors import BackendUnavailable

os.environ.setdefault("USE_HUB_KERNELS", "NO")  # read when transformers is imported: such kernels bypass what we watch

try:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
    from transformers.integrations import sdpa_attention

    PreTrainedModel._get_dtype_plan  # noqa: B018  (it is called by its name on a model)
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise BackendUnavailable(
        "model folders are opened by transformers, which is not installed; type: pip install 'wncore[torch]'"
    ) from error
except (ImportError, AttributeError) as error:
    import transformers

    raise BackendUnavailable(
        f"transformers {transformers.__version__} lacks what model folders are opened with ({error}); "
        f"install one that wncore was tried with: pip install 'wncore[torch]'"
    ) from error

__all__ = [
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "PreTrainedConfig",
    "PreTrainedModel",
    "WeightConverter",
    "WeightRenaming",
    "dot_natural_key",
    "get_model_conversion_mapping",
    "rename_source_key",
    "sdpa_attention",
]
