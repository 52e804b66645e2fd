//! Running scripts in the guest, so that they can be stopped with everything they started, and so that neither their
//! text nor their environment is ever on a command line or a disk.

use std::ops::ControlFlow;
use std::time::Duration;

use super::output::Report;
use super::{Attempt, Guest};
use crate::error::{Context, Error, Result};
use crate::plan::Step;
use crate::proc::quote;
use crate::ssh::{Ended, Exec, Session, Stdin, as_root, capture};
use crate::text::Lines;

/// Takes the script and its environment as a tar archive on stdin into a folder in /run (memory), runs it in a control
/// group of its own (a session of its own where the guest has no cgroup v2), and says how it ended in its last line.
///
/// - All output goes through one pipe, so that the last line comes last; a background process that keeps the pipe open
///   cannot hold back the end.
/// - /run is often mounted noexec: scripts are read by their interpreter, not executed.
/// - What the script appends to `$IMGBUILD_RECORD`, lines of the form `name=value`, comes before the last line.
const RUNNER: &str = r#"
set -eu
umask 077
name=$1 user=$2 mark=$3
d=/run/imgbuild/$name
g=/sys/fs/cgroup/imgbuild-$name
rm -rf "$d"
mkdir -p /run/imgbuild
chmod 711 /run/imgbuild
mkdir "$d"
tar -xf - -C "$d"
if ! { mkdir "$g" && [ -e "$g/cgroup.kill" ]; } 2>/dev/null; then g=; fi
set -- sh "$d/main"
if [ "$user" != root ]; then
    chown -R "$user" "$d"
    set -- sudo -n -H -u "$user" -- "$@"
fi
setsid sh -c 'umask 022; [ -z "$0" ] || echo 0 >"$0/cgroup.procs"; exec "$@"' "$g" "$@" </dev/null 2>&1 &
echo $! >"$d/pid"
status=0
wait $! || status=$?
echo
[ ! -f "$d/record" ] || { cat "$d/record"; echo; } | sed "/^\$/d; s/^/$mark record /"
rm -rf "$d"
[ -z "$g" ] || rmdir "$g" 2>/dev/null || :
printf '%s %s\n' "$mark" "$status"
"#;

/// Ends what [`RUNNER`] started.
const KILLER: &str = r#"
d=/run/imgbuild/$1
g=/sys/fs/cgroup/imgbuild-$1
if [ -e "$g/cgroup.kill" ]; then
    echo 1 >"$g/cgroup.kill"
    while grep -qx 'populated 1' "$g/cgroup.events"; do sleep 0.1; done
    rmdir "$g"
elif [ -e "$d/pid" ]; then
    kill -KILL -- "-$(cat "$d/pid")"
fi
rm -rf "$d"
"#;

/// How long killing a step may take.
const KILL: Duration = Duration::from_secs(30);

/// Runs a script with the step's environment and secrets, until it ends or its time is up.
pub(super) async fn run<S: Session>(
    guest: &mut Guest<'_, S>,
    step: &Step,
    script: &[u8],
) -> Result<Attempt> {
    let name = guest.next_command();
    let user = match step.sudo {
        true => "root",
        false => &guest.means.plan.user,
    };
    let mark = format!("imgbuild-{name}");
    let command = as_root(RUNNER, &[&name, user, &mark]);
    let payload = payload(&name, &environment(guest, step)?, script)?;

    let mut lines = Lines::default();
    let mut output = StepOutput::new(guest.means.run, step, &mark);
    let mut feed = |bytes: &[u8]| {
        lines.feed(bytes, |line| output.line(line));
        match output.status {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    };
    let exec = Exec {
        command: &command,
        stdin: Stdin::Bytes(payload),
        output: &mut feed,
    };
    let ended = tokio::time::timeout(step.timeout, guest.session.exec(exec)).await;
    lines.flush(|line| output.line(line));
    let (status, last) = (output.status, output.report.into_last());
    guest.recorded.extend(output.recorded);
    match (ended, status) {
        (Ok(_), Some(status)) | (Err(_), Some(status)) => {
            let ended = match step.ok_exit_codes.contains(&status) {
                true => Ended::Exit(status),
                false => from_shell(status),
            };
            Ok(Attempt::Ended(ended, last))
        }
        // Without its end mark nothing is known of the script, whatever the status says.
        (Ok(ended), None) => Ok(match ended? {
            Ended::Disconnected(why) => Attempt::Ended(Ended::Disconnected(why), last),
            ended => Attempt::NotStarted(ended, last),
        }),
        (Err(_), None) => {
            kill(guest, &name).await?;
            Ok(Attempt::TimedOut(last))
        }
    }
}

/// The connection that the step runs on is in the middle of something and useless; a new one is sane.
async fn kill<S: Session>(guest: &mut Guest<'_, S>, name: &str) -> Result<()> {
    guest.reconnect().await?;
    let command = as_root(KILLER, &[name]);
    let killed = tokio::time::timeout(KILL, capture(&mut guest.session, &command)).await;
    match killed {
        Ok(result) => match result? {
            (ended, _) if ended.is_success() => Ok(()),
            (ended, said) => Err(Error::new("killing a step that took too long")
                .cause(format!("{ended}: {}", said.trim()))),
        },
        Err(_) => Err(
            Error::new("killing a step that took too long").cause(format!(
                "its processes did not end within {} s",
                KILL.as_secs()
            )),
        ),
    }
}

/// How a shell tells a signal: 128 and its number.
fn from_shell(status: i32) -> Ended {
    match status {
        137 => Ended::Signal("KILL".into()),
        143 => Ended::Signal("TERM".into()),
        139 => Ended::Signal("SEGV".into()),
        status => Ended::Exit(status),
    }
}

/// Shell text that sets the step's environment.
fn environment<S>(guest: &Guest<'_, S>, step: &Step) -> Result<String> {
    let plain = step
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut text = String::new();
    for (name, value) in plain {
        text.push_str(&format!("export {name}={}\n", quote(value)));
    }
    for name in &step.secrets {
        let secret = guest.secret(step, name)?;
        text.push_str(&format!("export {name}={}\n", quote(secret)));
    }
    Ok(text)
}

/// The archive that [`RUNNER`] unpacks: `env`, `step`, and `main`, which reads the one and becomes the other.
fn payload(name: &str, environment: &str, script: &[u8]) -> Result<Vec<u8>> {
    let folder = format!("/run/imgbuild/{name}");
    let main = format!(
        ". {folder}/env\nexport IMGBUILD_RECORD={folder}/record\ncd /\nexec {} {folder}/step\n",
        interpreter(script)
    );
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in [
        ("env", environment.as_bytes()),
        ("step", script),
        ("main", main.as_bytes()),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        archive
            .append_data(&mut header, path, content)
            .doing(|| "packing a script for the guest")?;
    }
    archive
        .into_inner()
        .doing(|| "packing a script for the guest")
}

/// What a script's first line asks for, else a shell that stops at the first error and at unset variables.
fn interpreter(script: &[u8]) -> String {
    let first = script
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let shebang = first.strip_prefix(b"#!").map(String::from_utf8_lossy);
    let Some(line) = shebang
        .as_deref()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    else {
        return "/bin/sh -eu".into();
    };
    // The kernel passes everything after the interpreter as one argument.
    match line.split_once(char::is_whitespace) {
        Some((program, argument)) => format!("{} {}", quote(program), quote(argument.trim())),
        None => quote(line),
    }
}

/// Reports a step's output and finds its end mark.
struct StepOutput<'o> {
    report: Report<'o>,
    mark: String,
    /// The runner puts a line end before the mark, which makes an empty line where the output ended with one of its
    /// own: an empty line is held back until something follows.
    empty: bool,
    recorded: Vec<(String, String)>,
    status: Option<i32>,
}

impl<'o> StepOutput<'o> {
    fn new(run: &'o crate::run::Run, step: &'o Step, mark: &str) -> Self {
        StepOutput {
            report: Report::new(run, step),
            mark: mark.into(),
            empty: false,
            recorded: vec![],
            status: None,
        }
    }

    fn line(&mut self, line: &str) {
        if let Some(ours) = line.strip_prefix(&self.mark) {
            match ours.strip_prefix(" record ") {
                Some(pair) => self.record(pair),
                None => self.status = ours.trim().parse().ok(),
            }
            return;
        }
        if std::mem::replace(&mut self.empty, line.is_empty()) {
            self.report.line("");
        }
        if !line.is_empty() {
            self.report.line(line);
        }
    }

    fn record(&mut self, pair: &str) {
        let masked = self.report.events.masked(pair);
        match masked.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                let pair = (name.trim().to_owned(), value.trim().to_owned());
                self.recorded.push(pair);
            }
            _ => self.report.events.warn(format!(
                "step `{}` recorded `{masked}`, which is not of the form name=value",
                self.report.step
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_chooses_the_interpreter() {
        assert_eq!(interpreter(b"echo a\n"), "/bin/sh -eu");
        assert_eq!(interpreter(b"#!/bin/bash\necho"), "/bin/bash");
        assert_eq!(
            interpreter(b"#! /usr/bin/env -S python3 -u\n"),
            "/usr/bin/env '-S python3 -u'"
        );
        assert_eq!(interpreter(b"#!\n"), "/bin/sh -eu");
    }

    #[test]
    fn secrets_and_scripts_are_not_on_the_command_line() {
        let command = as_root(RUNNER, &["1", "root", "mark"]);
        assert!(command.starts_with("sudo -n sh -c '"));
        assert!(!command.contains("export"));
    }
}
