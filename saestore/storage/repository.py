"""An icechunk repository as a store: what saestore commits is a commit of the repository at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zarr.abc.store import Store
from zarr.storage import WrapperStore

if TYPE_CHECKING:
    import icechunk

_BRANCH = "main"


class RepositoryStore(WrapperStore[Store]):
    """The last state of a repository's branch `main`, and what is written on top of it.

    A session of icechunk ends with its commit, so each commit goes on with a new one. What other sessions committed to
    other nodes meanwhile is kept; a commit that touches the same nodes is given up with all that it has.
    """

    def __init__(self, repository: icechunk.Repository, *, read_only: bool) -> None:
        self._repository, self._reads = repository, read_only
        self._begin()

    def _begin(self) -> None:
        begin = self._repository.readonly_session if self._reads else self._repository.writable_session
        self._session = begin(_BRANCH)
        super().__init__(self._session.store)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self._repository, self._reads)

    def __str__(self) -> str:
        return f"icechunk repository at {self._repository.storage}"

    def _with_store(self, store: Store) -> RepositoryStore:
        return RepositoryStore(self._repository, read_only=store.read_only)

    def refresh(self) -> None:
        """See what others committed, where nothing of this store's is waiting."""
        if not self._session.has_uncommitted_changes:
            self._begin()

    def commit(self, message: str) -> bool:
        """Commit what was written; False, and all of it is given up, where another commit changed the same nodes."""
        import icechunk

        try:
            if self._session.has_uncommitted_changes:
                self._session.commit(message, rebase_with=icechunk.ConflictDetector())
        except (icechunk.ConflictError, icechunk.RebaseFailedError):
            return False
        finally:
            self._begin()
        return True


def _open(repository: icechunk.Repository, read_only: bool) -> RepositoryStore:
    return RepositoryStore(repository, read_only=read_only)
