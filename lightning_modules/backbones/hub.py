"""Check that the Hugging Face hub is reachable before timm downloads weights. timm itself retries for 47 s."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from huggingface_hub import constants, try_to_load_from_cache

_FILES = ("model.safetensors", "pytorch_model.bin")


def cached_file(cfg: Mapping[str, Any]) -> Path | None:
    """Find weights in the local cache of the hub or of torch.

    Args:
        cfg: `pretrained_cfg` of a timm model.

    Returns:
        Path of the weight file, or None.
    """
    if repo := cfg.get("hf_hub_id"):
        repo_id, _, revision = repo.partition("@")
        for filename in filter(None, (cfg.get("hf_hub_filename"), *_FILES)):
            found = try_to_load_from_cache(repo_id, filename, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    if isinstance(url := cfg.get("url"), str) and url:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        if file.is_file():
            return file
    return None


def unreachable_reason(timeout: float = 3.0) -> str:
    """Return why the hub is unreachable, or "" if it is reachable.

    The check respects HF_HUB_OFFLINE, HF_ENDPOINT and the proxy variables, like the client of the hub. It runs in a
    thread, because DNS lookups ignore socket timeouts.

    Args:
        timeout: Longest duration in seconds.

    Returns:
        Reason in one line, or "".
    """
    if constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    reason = [f"{endpoint} did not respond in {timeout:g} s"]

    def request_head() -> None:
        try:
            request = urllib.request.Request(endpoint, method="HEAD")
            with urllib.request.build_opener().open(request, timeout=timeout):  # urlopen caches the proxies
                reason[0] = ""
        except urllib.error.HTTPError as error:  # 403 and 407 may come from a proxy that blocks the hub
            reason[0] = (
                f"{endpoint} returned status {error.code}" if error.code in (403, 407) or error.code >= 500 else ""
            )
        except (OSError, ValueError) as error:
            reason[0] = f"{endpoint} cannot be reached: {getattr(error, 'reason', error)}"

    thread = threading.Thread(target=request_head, daemon=True)
    thread.start()
    thread.join(timeout)
    return reason[0]
