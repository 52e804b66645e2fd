//! The git repository that a recipe is in.

use std::path::{Path, PathBuf};

use crate::proc::Program;
use crate::provenance::public_address;

/// What is known of the recipe's repository when a build begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    /// The commit that is checked out.
    pub commit: String,
    /// Where it comes from, without credentials; none if that is a folder or nowhere.
    pub remote: Option<String>,
    /// Whether there are changes that the commit has not, files that git neither knows nor ignores, or inputs of the build that
    /// it ignores.
    pub dirty: bool,
    /// The recipe's folder in it, with a slash at its end; empty for its root.
    pub prefix: String,
}

impl Repository {
    /// Asks git about the repository of a folder. Without git, or without a repository with a commit, there is none. `inputs`
    /// are the files and folders that are used.
    pub async fn of(folder: &Path, inputs: &[PathBuf]) -> Option<Self> {
        let head = git(folder, &["rev-parse", "--verify", "HEAD"]).await?;
        let prefix = git(folder, &["rev-parse", "--show-prefix"]).await?;
        let changes = git(folder, &["status", "--porcelain", "--untracked-files=all"]).await?;
        let ignored = ignored(folder, inputs).await?;
        let remotes = git(folder, &["remote"]).await.unwrap_or_default();
        let mut names = remotes.lines();
        // git's own default.
        let name = match remotes.lines().any(|name| name == "origin") {
            true => Some("origin"),
            false => names.next(),
        };
        let remote = match name {
            Some(name) => git(folder, &["remote", "get-url", "--", name]).await,
            None => None,
        };
        Some(Repository {
            commit: head.trim().to_owned(),
            remote: remote.and_then(|address| public_address(address.trim())),
            dirty: !changes.trim().is_empty() || ignored,
            prefix: prefix.trim_end_matches('\n').to_owned(),
        })
    }
}

/// So many inputs are asked for at once: a command line is limited, to 2 MiB by Linux.
const AT_ONCE: usize = 256;

/// Whether git ignores one of `inputs`, or something in one that is a folder: then no commit tells what that was.
async fn ignored(folder: &Path, inputs: &[PathBuf]) -> Option<bool> {
    let top = git(folder, &["rev-parse", "--show-toplevel"]).await?;
    let top = Path::new(top.trim_end_matches('\n')).canonicalize().ok()?;
    let inputs = inputs.iter().filter_map(|path| path.canonicalize().ok());
    let within: Vec<PathBuf> = inputs.filter(|path| path.starts_with(&top)).collect();
    for some in within.chunks(AT_ONCE) {
        let mut arguments = vec![
            "--literal-pathspecs",
            "ls-files",
            "--others",
            "--ignored",
            "--exclude-standard",
            "--full-name",
            "--",
        ];
        let some: Vec<_> = some.iter().map(|path| path.to_string_lossy()).collect();
        arguments.extend(some.iter().map(AsRef::as_ref));
        if !git(folder, &arguments).await?.is_empty() {
            return Some(true);
        }
    }
    Some(false)
}

/// What git prints; `None` if it is not there or fails.
async fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let program = Program::new("git")
        // A repository may name a program to be run by `git status`; that is none of ours.
        .args(["-c", "core.fsmonitor=false", "-C"])
        .arg(folder)
        .args(arguments)
        // They may name another repository than the folder's; git's hooks set some.
        .without_env(&["GIT_"])
        // We only look.
        .env("GIT_OPTIONAL_LOCKS", "0");
    match program.stdout().await {
        Ok(said) => Some(said),
        Err(error) => {
            tracing::debug!("{error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn run(folder: &Path, arguments: &[&str]) {
        let who = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
        let mut command = Command::new("git");
        let ran = command
            .arg("-C")
            .arg(folder)
            .args(who)
            .args(arguments)
            .output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{ran:?}");
    }

    #[tokio::test]
    async fn a_repository_is_known_by_commit_remote_and_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(Repository::of(path, &[]).await, None, "no repository");
        run(path, &["init", "-q"]);
        assert_eq!(Repository::of(path, &[]).await, None, "no commit");
        std::fs::create_dir(path.join("recipes")).unwrap();
        std::fs::write(path.join("recipes/web.toml"), "x").unwrap();
        run(path, &["add", "."]);
        run(path, &["commit", "-q", "-m", "x"]);
        let inputs = [path.join("recipes/web.toml"), path.join("files")];
        let of = async || {
            let of = Repository::of(&path.join("recipes"), &inputs).await;
            of.unwrap()
        };
        let clean = of().await;
        assert_eq!((clean.commit.len(), clean.dirty), (40, false));
        assert_eq!((clean.prefix.as_str(), &clean.remote), ("recipes/", &None));
        let url = "https://me:hunter2@example.org/images.git";
        run(path, &["remote", "add", "origin", url]);
        assert_eq!(of().await.remote.unwrap(), "https://example.org/images.git");
        std::fs::write(path.join("new"), "x").unwrap();
        assert!(of().await.dirty, "a file that git does not know");
        run(path, &["config", "status.showUntrackedFiles", "no"]);
        assert!(of().await.dirty, "one that git is told not to show");
        std::fs::write(path.join(".git/info/exclude"), "new\nfiles/own\n").unwrap();
        assert!(!of().await.dirty, "one that is ignored and not used");
        std::fs::create_dir(path.join("files")).unwrap();
        std::fs::write(path.join("files/own"), "x").unwrap();
        assert!(of().await.dirty, "one that is ignored and used");
        std::fs::remove_file(path.join("files/own")).unwrap();
        std::fs::remove_file(path.join("new")).unwrap();
        std::fs::write(path.join("recipes/web.toml"), "y").unwrap();
        assert!(of().await.dirty, "a file that was changed");
    }
}
