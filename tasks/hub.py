"""Directories on the Hugging Face hub: `hf:user/repository[/folder]`.

The token comes from the environment ($HF_TOKEN) and from nowhere else: what `hf auth login` left on this machine is not
used. huggingface_hub is imported where it is used; most commands never need it.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.errors import ExperimentError

PREFIX = "hf:"


@dataclass(frozen=True)
class HubFolder:
    """A folder of a model repository; "" is the repository itself."""

    repository: str
    folder: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"/{self.folder}" if self.folder else "")

    @classmethod
    def parse(cls, name: str) -> "HubFolder":
        parts = name.removeprefix(PREFIX).split("/")
        if len(parts) < 2 or not all(parts) or ".." in parts:
            raise ExperimentError(
                f"{name!r} names no place on the hub. Give hf:user/repository or hf:user/repository/folder"
            )
        return cls("/".join(parts[:2]), "/".join(parts[2:]))

    def download(self, names: Iterable[str]) -> Path:
        """The folder in the hub's cache, with those of the files `names` that there are.

        Raises:
            ExperimentError: there is no such repository, or it cannot be reached.
        """
        from huggingface_hub import snapshot_download

        patterns = [f"{self.folder}/{name}" if self.folder else name for name in names]
        try:
            return Path(snapshot_download(self.repository, allow_patterns=patterns, token=_token())) / self.folder
        except Exception as error:  # the client also raises what its HTTP library does, whichever that is
            raise self._failure("read", error) from error

    def upload(self, directory: Path) -> str:
        """Put the files of `directory` here, in a repository that is made (private) where there is none; its address.

        Raises:
            ExperimentError: it cannot be reached, or the token may not write there.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=_token())
        try:
            api.create_repo(self.repository, private=True, exist_ok=True)
            commit = api.upload_folder(
                repo_id=self.repository,
                folder_path=directory,
                path_in_repo=self.folder or None,
                commit_message=f"Add {self.folder or 'a dictionary'}",
            )
        except Exception as error:  # as above
            raise self._failure("written", error) from error
        return str(commit.commit_url)

    def _failure(self, what: str, error: Exception) -> ExperimentError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        token = "the token in $HF_TOKEN was sent" if _token() else "no token was sent, since $HF_TOKEN is not set"
        return ExperimentError(
            f"{self} cannot be {what} on the Hugging Face hub ({type(error).__name__}: {reason}); {token}. "
            "Without a network, use a directory instead."
        )


def _token() -> str | Literal[False]:
    return os.environ.get("HF_TOKEN") or False
