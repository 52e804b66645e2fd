//! The workspace image that people come for, built from the repository's recipe on Debian 12, and a clone of it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::lab::server::{Server, sha256};
use crate::lab::vendor::archive;
use crate::lab::{Image, Lab};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SECRET: &str = "swordfish-4711-and-more";

/// A server shaped like VS Code's update service, with a server and a command-line program that do nothing.
fn vendor() -> Server {
    let product = format!("{{\"commit\": \"{COMMIT}\"}}");
    let script = "#!/bin/sh\necho here\n";
    let server = |top: &str| {
        archive(&[
            (&format!("{top}/bin/code-server"), script, 0o755),
            (&format!("{top}/node"), script, 0o755),
            (&format!("{top}/product.json"), &product, 0o644),
        ])
    };
    let program = archive(&[("code", script, 0o755)]);
    let files = [
        ("server-linux-x64", server("vscode-server-linux-x64")),
        (
            "server-linux-x64-web",
            server("vscode-server-linux-x64-web"),
        ),
        ("cli-alpine-x64", program.clone()),
        ("cli-linux-x64", program),
    ];
    Server::start_with(|address| {
        let mut answers = BTreeMap::new();
        for (platform, bytes) in files {
            let metadata = format!(
                r#"{{"url": "{address}/commit:{COMMIT}/{platform}/stable", "version": "{COMMIT}",
                    "productVersion": "1.101.0", "sha256hash": "{}"}}"#,
                sha256(&bytes)
            );
            let path = format!("/api/versions/commit:{COMMIT}/{platform}/stable");
            answers.insert(path, metadata.into_bytes());
            answers.insert(format!("/commit:{COMMIT}/{platform}/stable"), bytes);
        }
        answers
    })
}

/// What a test of ours adds to the repository's recipe.
const MORE: &str = r#"
[machine]
cpus = 1

[secrets]
TOKEN = { env = "LAB_TOKEN" }

[[step]]
name = "another way out"
before = "base tools"
use = "route-bypass"
with = { gateway = "10.0.2.2", dns = ["10.0.2.3"] }

# A tool that leaves its token on the disk and deletes it, as many do.
[[step]]
name = "careless"
secrets = ["TOKEN"]
run = '''
for n in $(seq 200); do echo "token=$TOKEN" >/srv/careless-$n; done
sync
rm /srv/careless-*
echo 'something that stays' >/srv/stays
sync
'''

[[test]]
name = "versions"
run = '''
runuser -l coder -c 'echo "is node=$(node --version)"; echo "is npm=$(npm --version)"; echo "is pnpm=$(pnpm --version)"'
runuser -l coder -c 'echo "is code-server=$(code-server --version | tail -n 1 | cut -d" " -f1)"'
'''

[[test]]
name = "VS Code is where Remote-SSH looks"
run = '''
cd /home/coder/.vscode-server
commit=0123456789abcdef0123456789abcdef01234567
test -x "code-$commit"
test -x "cli/servers/Stable-$commit/server/bin/code-server"
test -x "bin/$commit/bin/code-server"
grep -qF "Stable-$commit" cli/servers/lru.json
test -z "$(find /home/coder/.vscode-server ! -user coder)"
test -z "$(find . -name log.txt -o -name pid.txt)"
test -x "/etc/skel/.vscode-server/code-$commit"
'''

[[test]]
name = "the registry of the build is not that of the image"
run = "test ! -e /usr/local/etc/npmrc && test ! -e /root/.npmrc"

[[test]]
name = "the network is the usual one"
run = '''
ip route show default | grep -q 'via 10.0.2.2'
test -z "$(ip rule show | grep -E '^(5210|5211|5212|5213):')"
test ! -e /var/lib/imgbuild-route-bypass
(! grep -q imgbuild /proc/self/mountinfo)
getent hosts localhost
'''
"#;

#[test]
fn the_workspace_is_complete_and_keeps_no_secret() {
    let lab = Lab::new("workspace");
    let vendor = vendor();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/coder-workspace-debian.toml");
    let text = format!("extends = {recipe:?}\n{MORE}");
    let recipe = lab.write("workspace.toml", text);
    let recipe = recipe.to_str().unwrap();
    let ca = own_authorities(&lab);
    let base = Image::Debian.path();
    let vars = [
        format!("base={}", base.display()),
        format!("ca_file={}", ca.display()),
        format!("vscode={COMMIT}"),
        format!("vscode_update_url={}", vendor.address),
        // Under emulation each of these takes minutes that a test run does not have, compiling most of an hour.
        "compile=false".into(),
        "go_source=none".into(),
        "codex=".into(),
        "claude_code=".into(),
        "gemini_cli=".into(),
    ];
    let mut arguments = vec!["run", recipe];
    for var in &vars {
        arguments.extend(["--var", var]);
    }
    let run = lab.command(&arguments).env("LAB_TOKEN", SECRET).output();
    let ended = crate::lab::Ended::from(run.unwrap()).with_code(0);
    lab.assert_nothing_left();

    let record = lab.record("coder-workspace-debian");
    let versions = record["versions"].as_object().unwrap();
    for tool in ["node", "npm", "pnpm", "code-server"] {
        let recorded = versions[tool].as_str().unwrap();
        let found = format!("is {tool}={recorded}");
        assert!(
            ended.stderr.contains(&found),
            "`{found}` is not in:\n{}",
            ended.stderr
        );
    }
    let raw = raw(&lab);
    assert!(
        contains(&raw, b"something that stays"),
        "the search finds nothing"
    );
    assert!(
        !contains(&raw, SECRET.as_bytes()),
        "the secret is in the image"
    );
}

/// The certificates that this machine trusts besides its distribution's: a guest that fetches from behind the same proxy
/// needs them. An empty path if there are none.
fn own_authorities(lab: &Lab) -> std::path::PathBuf {
    let files = std::fs::read_dir("/usr/local/share/ca-certificates");
    let paths = files.into_iter().flatten().map(|file| file.unwrap().path());
    let crt = |path: &std::path::PathBuf| path.extension().is_some_and(|ending| ending == "crt");
    let texts: Vec<String> = paths
        .filter(crt)
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    match texts.is_empty() {
        true => std::path::PathBuf::new(),
        false => lab.write("authorities.pem", texts.join("\n")),
    }
}

/// The image as a disk.
fn raw(lab: &Lab) -> std::path::PathBuf {
    let raw = lab.path("image.raw");
    let status = Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(lab.artifact("coder-workspace-debian"))
        .arg(&raw)
        .status();
    assert!(status.unwrap().success());
    raw
}

/// Whether the bytes are anywhere in a file.
fn contains(path: &Path, wanted: &[u8]) -> bool {
    let mut file = std::fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let zeroes = vec![0; 1 << 20];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).unwrap();
        if read == 0 {
            return false;
        }
        let filled = kept + read;
        let block = &buffer[..filled];
        // Most of a disk is zeroes, and comparing whole blocks with those is fast.
        let is_empty = *block == zeroes[..filled];
        let mut windows = block.windows(wanted.len());
        if !is_empty && windows.any(|window| window[0] == wanted[0] && window == wanted) {
            return true;
        }
        kept = (wanted.len() - 1).min(filled);
        buffer.copy_within(filled - kept..filled, 0);
    }
}
