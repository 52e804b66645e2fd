//! Keys that an ssh-agent holds, and agents that are not there when they are needed.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::lab::{Ended, Lab};
use crate::scene::*;

const RECIPE: &str = "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"disk.raw\"\n";

/// An ssh-agent that ends with the test.
struct Agent {
    socket: PathBuf,
    process: std::process::Child,
}

impl Agent {
    fn start(lab: &Lab, key: &Path) -> Self {
        let socket = lab.path("agent");
        let mut agent = Command::new("ssh-agent");
        let process = agent
            .args(["-D", "-a", text(&socket)])
            .stdout(Stdio::null())
            .spawn();
        let agent = Agent {
            process: process.unwrap(),
            socket,
        };
        let add = || {
            let mut add = Command::new("ssh-add");
            add.arg("-q")
                .arg(key)
                .env("SSH_AUTH_SOCK", &agent.socket)
                .output()
                .unwrap()
        };
        // It does not tell when it listens.
        let began = std::time::Instant::now();
        loop {
            let added = add();
            if added.status.success() {
                return agent;
            }
            assert!(began.elapsed().as_secs() < 30, "{added:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_key_that_an_agent_holds_signs() {
    let lab = Lab::new("provenance, agent");
    let key = ssh_key(&lab, "held", "");
    let agent = Agent::start(&lab, &key);
    std::fs::remove_file(&key).unwrap();
    let public = key.with_extension("pub");
    debian(&lab);
    lab.write("web.toml", RECIPE);
    let run = |socket: &Path| -> Ended {
        let mut command = lab.command(&["run", "web.toml"]);
        let command = command
            .env("IMGBUILD_SIGNING_KEY", &public)
            .env("SSH_AUTH_SOCK", socket);
        command.output().unwrap().into()
    };
    run(&agent.socket).with_code(0);
    let image = newest(&lab, "web");
    verify(&lab, &image, &["--key", text(&public)]).with_code(0);
    let pem = lab.imgbuild(&[
        "provenance",
        "export",
        text(&image),
        "exported",
        "--key",
        text(&public),
    ]);
    pem.with_code(0);
    let fingerprint = read(&beside(&image, "dsse"))["signatures"][0]["keyid"].clone();
    let key = (
        fingerprint.as_str().unwrap().to_owned(),
        lab.path("exported/key.pem"),
    );
    for output in signatures(&image, &key) {
        accepted(&output);
    }
    std::fs::remove_file(&image).unwrap();
    run(&lab.path("no-agent")).with_code(1).saying("ssh-agent");
    assert!(!image.exists());
}

/// What becomes of an agent after it has signed once.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Away,
    Refusing,
    Willing,
}

/// A way to an agent that is fickle: it answers until it has signed once, and then as its mood is.
struct Fickle {
    socket: PathBuf,
    mood: Arc<Mutex<Mood>>,
}

impl Fickle {
    fn before(lab: &Lab, agent: &Agent, mood: Mood) -> Self {
        let socket = lab.path("fickle");
        let listener = UnixListener::bind(&socket).unwrap();
        let mood = Arc::new(Mutex::new(mood));
        let (there, later) = (agent.socket.clone(), mood.clone());
        std::thread::spawn(move || {
            let mut has_signed = false;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = message(&mut stream);
                let signs = request[0] == 13;
                let mood = match has_signed {
                    true => *later.lock().unwrap(),
                    false => Mood::Willing,
                };
                match mood {
                    Mood::Away => {}
                    Mood::Refusing if signs => send(&mut stream, &[5]),
                    _ => {
                        let mut agent = UnixStream::connect(&there).unwrap();
                        send(&mut agent, &request);
                        send(&mut stream, &message(&mut agent));
                        has_signed |= signs;
                    }
                }
            }
        });
        Fickle { socket, mood }
    }
}

/// Reads one message of the agent's protocol.
fn message(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut message).unwrap();
    message
}

fn send(stream: &mut UnixStream, message: &[u8]) {
    let length = (message.len() as u32).to_be_bytes();
    stream.write_all(&[&length[..], message].concat()).unwrap();
}

#[test]
fn an_image_waits_for_an_agent_that_went_away_while_it_was_built() {
    let lab = Lab::new("provenance, agent away");
    let key = ssh_key(&lab, "held", "");
    let agent = Agent::start(&lab, &key);
    let fickle = Fickle::before(&lab, &agent, Mood::Away);
    let public = key.with_extension("pub");
    debian(&lab);
    lab.write("web.toml", RECIPE);
    let mut command = lab.command(&["run", "web.toml"]);
    command
        .env("IMGBUILD_SIGNING_KEY", &public)
        .env("SSH_AUTH_SOCK", &fickle.socket)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut run = command.spawn().unwrap();
    let mut said = BufReader::new(run.stderr.take().unwrap()).lines();
    let warned = said.find_map(|line| {
        line.ok()
            .filter(|line| line.contains("but for its signature"))
    });
    let warned = warned.expect("it did not say that it waits");
    assert!(warned.contains(text(&fickle.socket)), "{warned}");
    *fickle.mood.lock().unwrap() = Mood::Willing;
    said.for_each(drop);
    assert!(run.wait().unwrap().success());
    verify(&lab, &newest(&lab, "web"), &["--key", text(&public)]).with_code(0);
}

#[test]
fn an_agent_that_refuses_ends_the_build_with_what_to_do() {
    let lab = Lab::new("provenance, agent refuses");
    let key = ssh_key(&lab, "held", "");
    let agent = Agent::start(&lab, &key);
    let fickle = Fickle::before(&lab, &agent, Mood::Refusing);
    debian(&lab);
    lab.write("web.toml", RECIPE);
    let run = || -> Ended {
        let mut command = lab.command(&["run", "web.toml"]);
        let command = command
            .env("IMGBUILD_SIGNING_KEY", key.with_extension("pub"))
            .env("SSH_AUTH_SOCK", &fickle.socket);
        command.output().unwrap().into()
    };
    // It has signed once, when it was asked whether it would.
    run()
        .with_code(1)
        .saying("it refused")
        .saying("run the build again");
    assert!(!lab.artifact("web").exists());
    lab.assert_nothing_left();
    // By now it refuses from the beginning: nothing is done in vain.
    run()
        .with_code(1)
        .saying("it refused")
        .not_saying("convert");
    *fickle.mood.lock().unwrap() = Mood::Willing;
    run().with_code(0);
}
