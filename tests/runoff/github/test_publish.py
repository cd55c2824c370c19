"""A branch, a push, a draft pull request, a comment: what was asked for and no more, once, and never over what others made.

Pushes go to a real Git server on loopback; the API beside it is a fake.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runoff.cli import main
from runoff.github import publish as publishing
from runoff.github.address import IssueAddress
from runoff.github.client import GitHubFailed
from runoff.github.commit import NotPublished
from runoff.github.evidence import Evidence
from runoff.github.publish import Wanted, check, publish
from runoff.github.pushing import remote
from runoff.github.submission import read
from runoff.run import BadRun
from tests.runoff.github.decided import GIT, decided, git, repository
from tests.runoff.github.host import READER, WRITER, Host, serving
from tests.runoff.project import runoff

BRANCH = "refs/heads/runoff/issue-12"


class Scene:
    """A repository, its place on a server, and a run that has decided issue 12 of it."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder, self.host = folder, host
        self.place, self.commit = repository(folder / "project")
        self.bare = host.make("o/r", self.place)
        self.address = IssueAddress(base=host.base, owner="o", repo="r", number=12)
        self.out = decided(folder / "out", self.place, self.commit, address=self.address)
        self.said = list[str]()

    def publish(self, **wanted: Any) -> list[str]:
        done, _ = publish(read(self.out), Wanted(**wanted), Evidence(self.folder / "states"), self.said.append)
        return done

    def check(self, **wanted: Any) -> None:
        check(read(self.out).instance, self.address, Wanted(**wanted), self.said.append)

    def decide(self, **how: Any) -> None:
        self.out = decided(
            self.folder / f"out{len(list(self.folder.iterdir()))}", self.place, self.commit, address=self.address, **how
        )

    def commit_on(self, branch: str, text: str) -> str:
        """Somebody's commit on a branch of the server."""
        other = self.folder / f"clone-{branch.replace('/', '-')}"
        subprocess.run(["git", "clone", "-q", "-b", branch, self.bare, other], check=True)
        (other / "theirs.txt").write_text(text)
        subprocess.run([*GIT, "-C", other, "add", "."], check=True)
        subprocess.run([*GIT, "-C", other, "commit", "-qm", text], check=True)
        subprocess.run(["git", "-C", other, "push", "-q", "origin", f"HEAD:refs/heads/{branch}"], check=True)
        return git(other, "rev-parse", "HEAD")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    for name in ("NAME", "EMAIL"):
        for who in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{who}_{name}", f"me{'@localhost' if name == 'EMAIL' else ''}")
    monkeypatch.setenv("GH_ENTERPRISE_TOKEN", WRITER)
    with serving(tmp_path / "server") as host:
        yield Scene(tmp_path, host)


def test_a_branch_has_the_patch_and_the_user_s_work_stays_as_it_is(scene: Scene) -> None:
    place = scene.place
    (place / "numbers_.py").write_text("half done")
    (place / "staged.txt").write_text("staged")
    subprocess.run(["git", "-C", place, "add", "staged.txt"], check=True)
    for hook in ("pre-commit", "reference-transaction", "post-commit", "pre-push", "prepare-commit-msg"):
        file = place / ".git" / "hooks" / hook
        file.write_text(f"#!/bin/sh\ntouch {scene.folder}/hook-ran\n")
        file.chmod(0o755)
    (place / ".gitattributes").write_text("*.py filter=evil\n")
    subprocess.run(["git", "-C", place, "config", "filter.evil.clean", f"touch {scene.folder}/filter-ran"], check=True)
    before, head = (place / ".git" / "index").read_bytes(), git(place, "symbolic-ref", "HEAD")
    scene.publish(push=True)
    assert (place / "numbers_.py").read_text() == "half done"
    assert (place / ".git" / "index").read_bytes() == before
    assert git(place, "symbolic-ref", "HEAD") == head
    assert not (scene.folder / "hook-ran").exists()
    assert not (scene.folder / "filter-ran").exists()
    made = git(place, "rev-parse", BRANCH)
    assert git(place, "rev-parse", f"{made}^") == scene.commit
    assert git(place, "diff", "--stat", scene.commit, made).startswith("numbers_.py")
    assert "if values else 0" in git(place, "show", f"{made}:numbers_.py")
    text = git(place, "log", "-1", "--format=%an %ae%n%B", made)
    assert text.startswith("me me@localhost\nIssue 12: mean([]) crashes\n\nWritten by openai/any, chosen by runoff")
    assert "Nobody has reviewed it yet." in text


def test_nothing_is_pushed_unless_it_is_asked_for(scene: Scene) -> None:
    scene.publish(local=True)
    assert scene.host.refs() == {"refs/heads/main": scene.commit}
    assert not scene.host.asked
    scene.publish(push=True)
    assert BRANCH in scene.host.refs()
    assert not scene.host.asked, "a push is a branch and no more"
    scene.publish(pr=True)
    assert [pull["draft"] for pull in scene.host.pulls] == [True]
    assert not scene.host.comments


def test_the_pull_request_is_a_draft_with_the_proof_of_both_commits(scene: Scene) -> None:
    told = scene.publish(pr=True)
    (pull,) = scene.host.pulls
    made = scene.host.refs()[BRANCH]
    assert told[-1] == f"draft pull request: {pull['html_url']}"
    assert (pull["head"]["ref"], pull["base"]["ref"], pull["draft"]) == ("runoff/issue-12", "main", True)
    assert pull["title"] == "Issue 12: mean([]) crashes"
    for text in ("Fixes #12.", scene.commit, made, "**not fixed**", "**fixed**", "mean([]): division by zero"):
        assert text in pull["body"]


def test_again_it_is_the_same_branch_pull_request_and_comment(scene: Scene) -> None:
    scene.publish(pr=True, comment=True)
    before = scene.host.refs()
    told = scene.publish(pr=True, comment=True)
    assert scene.host.refs() == before
    assert (len(scene.host.pulls), len(scene.host.comments)) == (1, 1)
    assert [line.partition(":")[0] for line in told[2:]] == [
        "the pull request is up to date",
        "the comment is up to date",
    ]
    assert [verb for verb, _, _ in scene.host.asked if verb != "GET"] == ["POST", "POST"]


def test_another_decision_moves_the_branch_and_leaves_what_people_wrote_in_the_description(scene: Scene) -> None:
    scene.publish(pr=True)
    first, (pull,) = scene.host.refs()[BRANCH], scene.host.pulls
    pull["body"] = f"Please look at this.\r\n{pull['body']}\n- [x] looked at"
    pull["title"] = "A better title"
    scene.decide(words="Another change, said otherwise.", patch=None, script="import sys\n\nsys.exit(2)\n")
    scene.decide(model="openai/other", words="Said otherwise, at some length.")
    scene.publish(pr=True)
    assert scene.host.refs()[BRANCH] != first, "its message names another model"
    assert git(scene.place, "rev-list", "--count", f"{scene.commit}..{BRANCH}") == "1"
    assert len(scene.host.pulls) == 1
    assert pull["body"].startswith("Please look at this.\n")
    assert pull["body"].rstrip().endswith("- [x] looked at")
    assert "Said otherwise" in pull["body"]
    assert "Dividing by the length" not in pull["body"]
    assert pull["title"] == "A better title"


def test_killed_between_the_push_and_the_pull_request_it_goes_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "_pull", killed)
        with pytest.raises(KeyboardInterrupt):
            scene.publish(pr=True)
    made = scene.host.refs()[BRANCH]
    assert not scene.host.pulls
    scene.publish(pr=True)
    assert scene.host.refs()[BRANCH] == made
    assert len(scene.host.pulls) == 1


def test_an_answer_that_was_lost_makes_no_second_pull_request(scene: Scene) -> None:
    """The server has opened it, and its answer did not come."""
    scene.publish(pr=True)
    (pull,) = scene.host.pulls
    pull["state"] = "hidden"  # as a list that lags behind does
    scene.host.faults.append(
        (
            "POST",
            "/pulls$",
            422,
            {
                "message": "Validation Failed",
                "errors": [{"message": "A pull request already exists for o:runoff/issue-12."}],
            },
        )
    )
    with pytest.raises((GitHubFailed, NotPublished)):
        scene.publish(pr=True)
    pull["state"] = "open"
    assert scene.publish(pr=True)[-1].startswith("the pull request is up to date")
    assert len(scene.host.pulls) == 1


def test_a_closed_pull_request_is_not_opened_again(scene: Scene) -> None:
    scene.publish(pr=True)
    scene.host.pulls[0]["state"] = "closed"
    before = scene.host.refs()
    scene.decide(model="openai/other")
    with pytest.raises(NotPublished, match=r"was closed: http.*/pull/\d+; .* --branch NAME"):
        scene.publish(pr=True)
    assert scene.host.refs() == before, "nor is its branch moved"
    with pytest.raises(NotPublished, match="was closed"):
        scene.check(pr=True)
    scene.publish(pr=True, branch="second-try")
    assert len(scene.host.pulls) == 2


def test_somebody_else_s_pull_request_from_the_branch_keeps_its_description(scene: Scene) -> None:
    scene.publish(push=True)
    pull = {"slug": "o/r", "number": 7, "state": "open", "merged_at": None, "body": "mine"}
    pull |= {"html_url": f"{scene.host.base}/o/r/pull/7", "head": {"ref": "runoff/issue-12", "user": {"login": "o"}}}
    scene.host.pulls.append(pull)
    assert "opened by somebody else" in scene.publish(pr=True)[-1]
    assert pull["body"] == "mine"


@pytest.mark.parametrize("where", ["before", "meanwhile"])
def test_what_others_pushed_to_the_branch_is_not_overwritten(
    scene: Scene, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.publish(push=True)
    theirs = scene.commit_on("runoff/issue-12", "a suggestion of the reviewer's")
    scene.decide(model="openai/other")
    if where == "before":
        with pytest.raises(NotPublished, match="commits that runoff did not make"):
            scene.check(push=True)
        with pytest.raises(NotPublished, match="commits that runoff did not make"):
            scene.publish(push=True)
    else:
        ours = git(scene.place, "rev-parse", BRANCH)
        monkeypatch.setattr("runoff.github.pushing._there", lambda *args: ours)
        with pytest.raises(NotPublished, match="somebody else pushed runoff/issue-12"):
            scene.publish(push=True)
    assert scene.host.refs()[BRANCH] == theirs


def test_a_branch_of_the_user_s_own_is_neither_moved_here_nor_there(scene: Scene) -> None:
    subprocess.run(["git", "-C", scene.place, "branch", "work", "main"], check=True)
    for attempt in (scene.check, scene.publish):
        with pytest.raises(NotPublished, match="there is a branch work with commits that runoff did not make"):
            attempt(local=True, branch="work")
    with pytest.raises(NotPublished, match=r"default branch|did not make"):
        scene.publish(push=True, branch="main")
    subprocess.run(["git", "-C", scene.place, "branch", "-D", "-q", "work"], check=True)
    subprocess.run(["git", "-C", scene.place, "push", "-q", scene.bare, "main:work"], check=True)
    with pytest.raises(NotPublished, match="commits that runoff did not make"):
        scene.publish(push=True, branch="work")
    assert scene.host.refs()["refs/heads/work"] == scene.commit


def test_two_issues_of_one_project_have_a_branch_each(tmp_path: Path) -> None:
    place, commit = repository(tmp_path / "project")
    one, other = (read(decided(tmp_path / text, place, commit, statement=text)) for text in ("first", "second"))
    publish(one, Wanted(local=True), Evidence(tmp_path), print)
    publish(other, Wanted(local=True), Evidence(tmp_path), print)
    assert len(git(place, "for-each-ref", "refs/heads/runoff").splitlines()) == 2
    publish(one, Wanted(local=True, branch="fix"), Evidence(tmp_path), print)
    with pytest.raises(NotPublished, match="there is a branch fix with commits"):
        publish(other, Wanted(local=True, branch="fix"), Evidence(tmp_path), print)


def test_a_branch_that_is_checked_out_does_not_change_under_its_user(scene: Scene) -> None:
    other = scene.folder / "worktree"
    scene.publish(local=True)
    subprocess.run(["git", "-C", scene.place, "worktree", "add", "-q", other, "runoff/issue-12"], check=True)
    scene.publish(local=True)
    scene.decide(model="openai/other")
    with pytest.raises(NotPublished, match=f"is checked out in {other}"):
        scene.publish(local=True)


def test_what_git_takes_for_no_branch_is_refused(scene: Scene) -> None:
    for name in ("-x", "a..b", "a b", "refs/heads/x", "HEAD", "x.lock", "a~1", "@", "/x", "a//b", "x\n"):
        with pytest.raises(NotPublished, match="no branch of this name"):
            scene.publish(local=True, branch=name)


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("ghp_nonsense_0123456789", "does not know the token"),
        (READER, "may not push there.*to a fork of yours"),
        ("", "does not know what git knows"),
    ],
)
def test_a_token_that_may_not_push_is_found_out_before_anything_is_spent(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, token: str, says: str
) -> None:
    monkeypatch.setenv("GH_ENTERPRISE_TOKEN", token)
    for attempt in (scene.check, scene.publish):
        with pytest.raises(NotPublished, match=says) as refused:
            attempt(push=True)
        assert refused.value.exit_code == 3
        assert "ghp_" not in str(refused.value)
        assert "\n" not in str(refused.value)
    assert scene.host.refs() == {"refs/heads/main": scene.commit}


def test_a_protected_branch_says_why_and_the_commit_is_kept(scene: Scene) -> None:
    hook = scene.bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'GH006: Protected branch update failed' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(
        NotPublished, match=r"refuses the branch.*pre-receive hook declined.*GH006.*kept in the local branch"
    ) as refused:
        scene.publish(pr=True)
    assert refused.value.exit_code == 5
    assert git(scene.place, "rev-parse", BRANCH)
    assert not scene.host.pulls
    hook.unlink()
    scene.publish(pr=True)
    assert len(scene.host.pulls) == 1


def test_from_a_fork_the_pull_request_goes_to_the_issue_s_repository(scene: Scene) -> None:
    scene.host.make("me/r", scene.place)
    scene.publish(pr=True, remote=scene.host.url("me/r"))
    assert BRANCH not in scene.host.refs("o/r")
    assert BRANCH in scene.host.refs("me/r")
    (pull,) = scene.host.pulls
    assert (pull["slug"], pull["head"]["user"]["login"]) == ("o/r", "me")
    scene.publish(pr=True, remote=scene.host.url("me/r"))
    assert len(scene.host.pulls) == 1


def test_the_token_is_in_no_argument_address_or_file(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    spy = tmp_path / "bin" / "git"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\nexec {real} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}:/usr/bin:/bin")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-key-of-a-model")
    scene.publish(pr=True, comment=True)
    assert "push" in (tmp_path / "arguments").read_text()
    for file in tmp_path.rglob("*"):
        if file.is_file() and file != spy:
            assert WRITER.encode() not in file.read_bytes(), file
    assert not any(WRITER in str(asked) for asked in scene.host.asked)


def test_a_password_in_the_user_s_remote_is_not_repeated(scene: Scene) -> None:
    address = scene.host.url("o/nothing").replace("http://", f"http://me:{WRITER}@")
    subprocess.run(["git", "-C", scene.place, "remote", "add", "origin", address], check=True)
    with pytest.raises(NotPublished) as refused:
        scene.publish(push=True, remote="origin")
    assert WRITER not in str(refused.value)


@pytest.mark.parametrize("status", ["abstained", "none"])
def test_without_a_patch_there_is_no_branch_and_a_comment_only_if_asked(scene: Scene, status: str) -> None:
    scene.decide(status=status)
    (line,) = scene.publish(pr=True, push=True, local=True)
    assert line.startswith("no branch and no pull request: ")
    assert scene.host.refs() == {"refs/heads/main": scene.commit}
    assert (scene.host.pulls, scene.host.comments) == ([], [])
    assert git(scene.place, "for-each-ref", "refs/heads").count("\n") == 0
    scene.publish(pr=True, comment=True)
    assert "proposes **no change**" in scene.host.comments[0]["body"]
    assert not scene.host.pulls


def test_a_comment_of_somebody_else_with_our_mark_is_left_alone(scene: Scene) -> None:
    theirs = {
        "id": 5,
        "body": "<!-- runoff: o__r-12 -->\nhaha",
        "user": {"login": "eve", "type": "User"},
        "html_url": "",
    }
    scene.host.comments.append(dict(theirs))
    scene.publish(comment=True)
    assert scene.host.comments[0] == theirs
    assert len(scene.host.comments) == 2


def test_a_repository_that_takes_no_drafts_says_so_and_where_to_go(scene: Scene) -> None:
    scene.host.faults.append(
        ("POST", "/pulls$", 422, {"message": "Draft pull requests are not supported in this repository."})
    )
    with pytest.raises(
        GitHubFailed,
        match=r"Draft pull requests are not supported.*open the pull request by hand at http\S+/o/r/compare/main",
    ):
        scene.publish(pr=True)
    assert BRANCH in scene.host.refs()


def test_an_archived_repository_is_found_out_before_anything_is_spent(scene: Scene) -> None:
    scene.host.repository["archived"] = True
    with pytest.raises(NotPublished, match="archived"):
        scene.check(pr=True)


def test_a_patch_that_was_changed_since_is_not_published_as_tested(scene: Scene) -> None:
    file = scene.out / "views" / "o__r-12" / "patch.diff"
    file.write_text(file.read_text().replace("else 0", "else 1"))
    with pytest.raises(BadRun, match="is not what the run decided for"):
        read(scene.out)


def test_the_proof_is_none_where_the_record_of_its_runs_is_gone(tmp_path: Path) -> None:
    place, commit = repository(tmp_path / "project")
    assert read(decided(tmp_path / "out", place, commit)).proof
    assert read(decided(tmp_path / "without", place, commit, kept=False)).proof is None
    other = read(decided(tmp_path / "other", place, commit, outputs={"base": "x\n", "patch": "y\n"}))
    assert other.proof
    assert (other.proof.base.output, other.proof.patch.output) == ("x\n", "y\n")


def test_a_source_tree_without_history_has_no_branch(tmp_path: Path) -> None:
    place, _ = repository(tmp_path / "project")
    submission = read(decided(tmp_path / "out", place, None))
    with pytest.raises(NotPublished, match="no git repository"):
        publish(submission, Wanted(local=True), Evidence(tmp_path), print)
    with pytest.raises(NotPublished, match="no git repository"):
        check(submission.instance, None, Wanted(local=True), print)


@pytest.mark.parametrize(
    ("url", "host", "slug"),
    [
        ("https://github.com/o/r.git", "github.com", "o/r"),
        ("https://me:secret@github.com/o/r", "github.com", "o/r"),
        ("git@github.com:o/r.git", "github.com", "o/r"),
        ("ssh://git@ghe.example:2222/o/r.git", "ghe.example", "o/r"),
        ("/srv/git/r.git", "", ""),
    ],
)
def test_where_an_address_leads(url: str, host: str, slug: str) -> None:
    found = remote(url)
    assert (found.host, found.slug) == (host, slug)
    assert "secret" not in found.place


def test_an_address_that_would_run_something_is_refused(scene: Scene) -> None:
    for url in ("ext::sh -c touch% /tmp/x", "fd::3", "git://o/r", "ftp://x/y", "--upload-pack=x:y"):
        with pytest.raises(NotPublished):
            scene.publish(push=True, remote=url)


def test_the_command_publishes_a_run_that_somebody_looked_at(scene: Scene) -> None:
    env = {"GH_ENTERPRISE_TOKEN": WRITER}
    done = runoff("publish", scene.out, "--pr", env=env)
    assert done.returncode == 0, done.stderr
    assert "draft pull request: " in done.stdout
    assert len(scene.host.pulls) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "nothing is published unasked: give --branch, --push, --pr or --comment"),
        (("--branch", "--remote", "origin"), "--remote says where to push to: give --push or --pr, too"),
        (("--push", "--into", "main"), "--into says where the pull request is to be merged: give --pr, too"),
        (("--branch",), "holds no run: there is no run.toml"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    tmp_path: Path,
    words: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["runoff", "publish", str(tmp_path), *words])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert (end.value.code, said.count("\n")) == (2, 1)
    assert says in said
