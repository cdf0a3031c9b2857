"""Is the weight hub to be had? Asked before timm asks, which retries for 47 s."""

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
    """The weight file of a timm pretrained_cfg in the local cache of the hub or of torch, or None."""
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
    """Why the hub cannot be asked, or "" if it answers; takes `timeout` seconds at most.

    Goes where the hub's own client would: HF_HUB_OFFLINE, HF_ENDPOINT and the proxy variables are heeded. In a
    thread of its own, since a name server that does not answer ignores socket time-outs.
    """
    if constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    answer = [f"{endpoint} did not answer in {timeout:g} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(endpoint, method="HEAD")
            with urllib.request.build_opener().open(request, timeout=timeout):  # urlopen would remember old proxies
                answer[0] = ""
        except urllib.error.HTTPError as error:  # an answer, though perhaps from a proxy that lets nobody through
            answer[0] = f"{endpoint} answered {error.code}" if error.code in (403, 407) or error.code >= 500 else ""
        except (OSError, ValueError) as error:
            answer[0] = f"{endpoint} cannot be reached: {getattr(error, 'reason', error)}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answer[0]
