"""The facts that a measurement is recorded with."""

from __future__ import annotations

import json

from minires.environment import commit, environment


def test_environment_is_json_and_complete():
    facts = json.loads(json.dumps(environment()))
    assert facts["packages"]["numpy"]
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert facts.keys() >= {"minires", "commit", "python", "system", "memory_bytes"}


def test_commit_from_a_branch_a_packed_branch_and_a_detached_head(tmp_path):
    git = tmp_path / ".git"
    assert commit(tmp_path) is None
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert commit(tmp_path) is None
    (git / "packed-refs").write_text("# pack-refs\n" + "a" * 40 + " refs/heads/main\n")
    assert commit(tmp_path) == "a" * 40
    (git / "refs/heads/main").write_text("b" * 40 + "\n")
    assert commit(tmp_path) == "b" * 40
    (git / "HEAD").write_text("c" * 40 + "\n")
    assert commit(tmp_path) == "c" * 40


def test_commit_of_a_worktree_beside_the_first(tmp_path):
    own, branches = tmp_path / "main/.git/worktrees/second", tmp_path / "main/.git/refs/heads"
    own.mkdir(parents=True)
    branches.mkdir(parents=True)
    (branches / "topic").write_text("d" * 40 + "\n")
    (own / "HEAD").write_text("ref: refs/heads/topic\n")
    (own / "commondir").write_text("../..\n")
    second = tmp_path / "second"
    second.mkdir()
    (second / ".git").write_text(f"gitdir: {own}\n")
    assert commit(second) == "d" * 40
    (second / ".git").write_text("gitdir: ../nowhere\n")
    assert commit(second) is None
