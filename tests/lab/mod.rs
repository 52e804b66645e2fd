//! A place for one test: a home of its own for imgbuild, a folder for recipes and images, and eyes on what is left.
#![allow(dead_code)] // each test file uses a part

pub mod clone;
pub mod node;
pub mod server;
pub mod template;
pub mod terminal;
pub mod tls;
pub mod tree;
pub mod vendor;
pub mod versions;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

/// One test's place.
pub struct Lab {
    folder: tempfile::TempDir,
    name: String,
    began: Instant,
}

/// A guest image that `scripts/test` has made.
#[derive(Clone, Copy)]
pub enum Image {
    /// Kernel, busybox, sshd: boots in seconds, has no cloud-init.
    Tiny,
    /// Debian 12 with cloud-init.
    Debian,
}

impl Image {
    pub fn path(self) -> PathBuf {
        let variable = match self {
            Image::Tiny => "IMGBUILD_TEST_TINY",
            Image::Debian => "IMGBUILD_TEST_BASE",
        };
        let path = std::env::var_os(variable)
            .unwrap_or_else(|| panic!("{variable} is not set: run scripts/test"));
        PathBuf::from(path)
    }

    pub fn memory(self) -> &'static str {
        match self {
            Image::Tiny => "256M",
            Image::Debian => "1536M",
        }
    }
}

/// The days since 1970: for what takes too long to be tested in all its kinds each time. A day that failed can be had again
/// by its number.
pub fn today() -> usize {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / (24 * 60 * 60);
    match std::env::var("IMGBUILD_TEST_DAY") {
        Ok(day) => day.parse().unwrap(),
        Err(_) => usize::try_from(now).unwrap(),
    }
}

/// Waits for something that nothing else tells of.
#[track_caller]
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        let elapsed = began.elapsed();
        assert!(elapsed < std::time::Duration::from_secs(60), "{what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// How a command ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Ended {
            // A shell's number for a signal, so that a test can ask for 137.
            code: output
                .status
                .code()
                .or(output.status.signal().map(|signal| 128 + signal)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Asserts the exit code, showing everything if it is another.
    #[track_caller]
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    #[track_caller]
    pub fn saying(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "`{text}` is not in:\n{}",
            self.stderr
        );
        self
    }

    /// Asserts what went to stdout.
    #[track_caller]
    pub fn printing(self, text: &str) -> Self {
        assert_eq!(self.stdout, text, "stderr:\n{}", self.stderr);
        self
    }

    /// Asserts a part of what went to stdout.
    #[track_caller]
    pub fn printing_part(self, text: &str) -> Self {
        let (stdout, stderr) = (&self.stdout, &self.stderr);
        assert!(
            stdout.contains(text),
            "`{text}` is not in:\n{stdout}\nstderr:\n{stderr}"
        );
        self
    }

    #[track_caller]
    pub fn not_saying(self, text: &str) -> Self {
        let all = format!("{}{}", self.stdout, self.stderr);
        assert!(!all.contains(text), "`{text}` is in:\n{all}");
        self
    }
}

impl Lab {
    pub fn new(name: &str) -> Self {
        Lab {
            folder: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            began: Instant::now(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes `NAME.toml`: a recipe on `image` with `rest` behind source and machine. One CPU: when QEMU emulates several it
    /// crashes or loses an interrupt now and then, and what comes of that has a test of its own.
    pub fn recipe(&self, name: &str, image: Image, rest: &str) -> PathBuf {
        let text = format!(
            "[image]\nname = \"{name}\"\n\n[source]\nfile = {:?}\n\n[machine]\ncpus = 1\nmemory = \"{}\"\n{rest}",
            image.path(),
            image.memory()
        );
        self.write(&format!("{name}.toml"), text)
    }

    /// `imgbuild` with these arguments, in this lab.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgbuild"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("IMGBUILD_HOME", self.home())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    pub fn imgbuild(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// Starts a run that reports as JSON lines, to be watched.
    pub fn watch(&self, arguments: &[&str]) -> Watched {
        let mut all = vec!["run", "--format", "json"];
        all.extend(arguments);
        let mut child = self
            .command(&all)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let events = BufReader::new(child.stdout.take().unwrap());
        Watched {
            child,
            events,
            seen: String::new(),
        }
    }

    /// Where the newest version of an image is found.
    pub fn link(&self, name: &str) -> PathBuf {
        self.path(&format!("out/{name}.qcow2"))
    }

    /// The newest version of an image; what it would be found by, if there is none.
    pub fn artifact(&self, name: &str) -> PathBuf {
        let link = self.link(name);
        link.canonicalize().unwrap_or(link)
    }

    pub fn record(&self, name: &str) -> Value {
        self.record_of(&format!("out/{name}.qcow2"))
    }

    /// The record beside the newest version of an image.
    pub fn record_of(&self, image: &str) -> Value {
        let newest = self.path(image).canonicalize().unwrap();
        let record = format!("{}.build.json", newest.display());
        serde_json::from_str(&std::fs::read_to_string(record).unwrap()).unwrap()
    }

    /// Whether an image has `text` anywhere on its disk, in a file or not.
    pub fn holds(&self, name: &str, text: &str) -> bool {
        let raw = self.path(&format!("{name}.raw"));
        let convert = Command::new("qemu-img")
            .args(["convert", "-f", "qcow2", "-O", "raw"])
            .args([&self.artifact(name), &raw])
            .status();
        assert!(convert.unwrap().success());
        let found = Command::new("grep")
            .args(["-q", "-a", "-F", text])
            .arg(&raw)
            .status();
        match found.unwrap().code() {
            Some(0) => true,
            Some(1) => false,
            code => panic!("grep ended with {code:?}"),
        }
    }

    /// Whether the journal of a build names this.
    pub fn is_journaled(&self, text: &str) -> bool {
        let builds = std::fs::read_dir(self.home().join("state/builds"));
        let journals = builds.into_iter().flatten().flatten();
        let texts =
            journals.map(|build| std::fs::read_to_string(build.path().join("journal.jsonl")));
        texts.flatten().any(|journal| journal.contains(text))
    }

    /// After SIGKILL: waits until no build has its lock any more. What a build was about to start is killed with it, but may
    /// hold the lock a moment longer.
    pub fn until_dead(&self) {
        let builds = std::fs::read_dir(self.home().join("state/builds"));
        let locks = builds.into_iter().flatten().flatten();
        for lock in locks.map(|build| build.path().join("lock")) {
            let Ok(lock) = std::fs::File::open(lock) else {
                continue;
            };
            while lock.try_lock().is_err() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            // Or it stays locked while another test starts a program, which gets a copy of the descriptor.
            lock.unlock().unwrap();
        }
    }

    /// Looks from outside for anything that a build has left: processes, disks, unfinished images, journals, locks.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.processes(), Vec::<String>::new(), "processes");
        assert_eq!(
            files(&self.home().join("cache/work")),
            Vec::<PathBuf>::new(),
            "disks"
        );
        for file in files(&self.home().join("cache/layers")) {
            let layer = file.parent().unwrap();
            let whole = layer.ends_with("layers") || layer.join("layer.json").exists();
            assert!(whole, "a layer that is none: {}", file.display());
        }
        let unfinished = |path: &PathBuf| path.to_string_lossy().ends_with(".partial");
        let output: Vec<_> = files(&self.path("out"))
            .into_iter()
            .filter(unfinished)
            .collect();
        assert_eq!(output, Vec::<PathBuf>::new(), "unfinished images");
        assert_eq!(self.of_steps(), Vec::<PathBuf>::new(), "of steps");
        for path in files(&self.home().join("state")) {
            if path.ends_with("journal.jsonl") {
                let journal = std::fs::read_to_string(&path).unwrap();
                panic!("{}:\n{journal}", path.display());
            }
            let is_lock =
                path.file_name().unwrap() == "lock" || path.parent().unwrap().ends_with("locks");
            if is_lock {
                let file = std::fs::File::open(&path).unwrap();
                assert!(file.try_lock().is_ok(), "{} is held", path.display());
                file.unlock().unwrap();
            }
        }
    }

    /// What steps make on this machine while they are under way: folders that downloads arrive in, and what a person
    /// needs to log in.
    pub fn of_steps(&self) -> Vec<PathBuf> {
        let of_step = |path: &PathBuf| {
            let download = |part: &std::ffi::OsStr| {
                let part = part.to_string_lossy();
                part.starts_with(".imgbuild-") && part.ends_with(".partial")
            };
            path.iter().any(download) || path.ends_with("ssh-key") || path.ends_with("known_hosts")
        };
        let mut all = files_and_folders(self.folder.path());
        all.retain(of_step);
        all
    }

    /// Command lines of processes that work in this lab.
    pub fn processes(&self) -> Vec<String> {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = pids.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains("qemu") && line.contains(&folder))
            .collect()
    }
}

impl Drop for Lab {
    /// Adds to the account of time spent with machines, which `scripts/test` prints.
    fn drop(&mut self) {
        use std::io::Write;
        let Some(account) = std::env::var_os("IMGBUILD_TEST_ACCOUNT") else {
            return;
        };
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(account)
            .unwrap();
        writeln!(
            file,
            "{:.1} {}",
            self.began.elapsed().as_secs_f64(),
            self.name
        )
        .unwrap();
    }
}

/// A run under observation.
pub struct Watched {
    child: Child,
    events: BufReader<std::process::ChildStdout>,
    seen: String,
}

impl Watched {
    /// Reads events until one satisfies `wanted`; `None` when the run ended first.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.events.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            self.seen.push_str(&line);
            let event: Value = serde_json::from_str(&line).unwrap();
            if wanted(&event) {
                return Some(event);
            }
        }
    }

    #[track_caller]
    pub fn until_phase(&mut self, phase: &str) {
        let begins = |event: &Value| event["event"] == "phase-started" && event["phase"] == phase;
        let found = self.until(begins);
        assert!(
            found.is_some(),
            "phase {phase} never began; events:\n{}",
            self.seen
        );
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the end and returns everything that was said.
    pub fn end(mut self) -> Ended {
        while self.until(|_| false).is_some() {}
        let seen = std::mem::take(&mut self.seen);
        let mut ended = Ended::from(self.child.wait_with_output().unwrap());
        ended.stdout = seen;
        ended
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = files_and_folders(folder);
    all.retain(|path| !path.is_dir());
    all
}

fn files_and_folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return vec![];
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .flat_map(|path| {
            // A link to a folder is no folder of the lab.
            let within = match path.is_symlink() {
                true => vec![],
                false => files_and_folders(&path),
            };
            [path].into_iter().chain(within)
        })
        .collect()
}
