//! The bundles that the workspace's test does not show, in one guest and in a clone of it. What comes from Debian's mirrors
//! and the npm registry is the real thing; the vendors' servers are stood in for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::server::{Answer, Request, Server, sha256};
use crate::lab::vendor::{Deb, Key, archive, git, git_answer, npm_package, repository};
use crate::lab::{Image, Lab, today};

/// The programs of the bundle ai-agents.
const AGENTS: &[&str] = &["gemini", "claude", "codex"];

const TOKEN: &str = "open-sesame-0815-and-more";
const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGCXpNTPFq3SrPYpAvo+dEFd3PEQg1RWXu4pXtjJAXK ann";

const CODER: &str = r#"#!/bin/sh
case $1 in
    version) echo 'Coder v2.20.0+abcdef0 Tue Mar  4 15:09:23 UTC 2025' ;;
    agent)
        curl -fsS "${CODER_AGENT_URL}agent?as=$(id -un)&in=$(pwd)&auth=$CODER_AGENT_AUTH&token=$CODER_AGENT_TOKEN"
        touch asked
        exec sleep 1000
        ;;
esac
"#;

const AGENTAPI: &str = r#"#!/bin/sh
case $1 in
    --help) echo 'HTTP API for agents' ;;
    --version) echo 'agentapi version 0.11.2' ;;
esac
"#;

const DOCKERD: &str = r#"#!/bin/sh
case "$*" in
    --help) echo '      --validate    Validate daemon configuration and exit' ;;
    --validate*) grep -q log-driver "$3" ;;
    *) exec sleep 1000 ;;
esac
"#;

const DOCKER: &str = "#!/bin/sh\n[ \"$1\" = version ] && echo 27.5.1\n";

/// Repositories below a folder, and the commits that were made: a public one (first, last) and a private one.
struct Repositories {
    folder: PathBuf,
    first: String,
    last: String,
    private: String,
}

impl Repositories {
    fn new(lab: &Lab) -> Self {
        let folder = lab.path("git");
        let commit = |name: &str, file: &str| {
            let work = folder.join(name);
            std::fs::write(work.join(file), file).unwrap();
            git(&work, &["add", file]);
            git(&work, &["commit", "-q", "-m", file]);
            git(&work, &["rev-parse", "HEAD"])
        };
        for name in ["public", "private"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
            git(&folder.join(name), &["init", "-q"]);
        }
        let first = commit("public", "one");
        let last = commit("public", "two");
        let private = folder.join("private");
        let modules = "[submodule \"part\"]\n\tpath = part\n\turl = ../public\n";
        std::fs::write(private.join(".gitmodules"), modules).unwrap();
        git(&private, &["add", ".gitmodules"]);
        let part = format!("160000,{first},part");
        git(&private, &["update-index", "--add", "--cacheinfo", &part]);
        let private = commit("private", "hidden");
        git(&folder.join("private"), &["tag", "-a", "-m", "v1", "v1"]);
        commit("private", "later");
        Repositories {
            folder,
            first,
            last,
            private,
        }
    }

    /// Both of them; the private one for those who know the token.
    fn answer(folder: &Path, path: &str, request: &Request) -> Answer {
        use base64::Engine;
        let login = format!("x-access-token:{TOKEN}");
        let login = base64::engine::general_purpose::STANDARD.encode(login);
        let given = request.headers.get("authorization");
        if path.starts_with("/private") && given != Some(&format!("Basic {login}")) {
            let mut answer = Answer::new("401 Unauthorized");
            answer
                .headers
                .push("WWW-Authenticate: Basic realm=\"private\"".into());
            return answer;
        }
        // A token for somebody else is a token given away.
        assert!(path.starts_with("/private") || given.is_none(), "{path}");
        git_answer(folder, path, request)
    }
}

/// The files of the vendors' servers by their paths, for a server that guests find at `address`.
fn files(address: &str, key: &Key) -> BTreeMap<String, Vec<u8>> {
    let registry = format!("{address}/npm");
    let tool = "#!/usr/bin/env node\n\
        console.log(process.argv[2] === '--version' ? '1.2.3' : require('lab-part'));\n";
    let part = "module.exports = 'the tool of the lab';\n";
    let mut files = npm_package(&registry, "lab-tool", "1.2.3", tool, &["lab-part"]);
    files.extend(npm_package(&registry, "lab-part", "4.5.6", part, &[]));
    // Go: a candidate for a release, the newest release, an old one.
    let mut index = vec![];
    for (version, stable) in [("1.26rc1", false), ("1.25.4", true), ("1.24.9", true)] {
        let program = format!(
            "#!/bin/sh\ncase $1 in env) echo go{version} ;; *) echo go version go{version} linux/amd64 ;; esac\n"
        );
        let note = format!("go/only-in-{version}");
        let release = archive(&[
            ("go/bin/go", &program, 0o755),
            ("go/bin/gofmt", &program, 0o755),
            (&note, "", 0o644),
        ]);
        let name = format!("go{version}.linux-amd64.tar.gz");
        index.push(serde_json::json!({
            "version": format!("go{version}"), "stable": stable,
            "files": [
                {"filename": format!("go{version}.src.tar.gz"), "sha256": "0".repeat(64)},
                {"filename": name, "sha256": sha256(&release)},
            ],
        }));
        files.insert(format!("/dl/{name}"), release);
    }
    let index = serde_json::json!(index).to_string();
    files.insert("/dl/index.json".into(), index.into_bytes());
    // Docker: two versions of the engine, of which the recipe wants the older.
    let unit = |program: &str| {
        format!("[Service]\nExecStart={program}\n[Install]\nWantedBy=multi-user.target\n")
    };
    let (engine, containerd) = (unit("/usr/bin/dockerd"), unit("/bin/sleep 1000"));
    let engine = [
        ("./usr/bin/dockerd", DOCKERD, 0o755),
        (
            "./lib/systemd/system/docker.service",
            engine.as_str(),
            0o644,
        ),
    ];
    let (old, new) = (
        "5:27.5.1-1~debian.12~bookworm",
        "5:28.0.0-1~debian.12~bookworm",
    );
    let debs = [
        Deb::new("docker-ce", old, &engine),
        Deb::new("docker-ce", new, &engine),
        Deb::new("docker-ce-cli", old, &[("./usr/bin/docker", DOCKER, 0o755)]),
        Deb::new("docker-ce-cli", new, &[("./usr/bin/docker", DOCKER, 0o755)]),
        Deb::new(
            "containerd.io",
            "1.7.25-1",
            &[(
                "./lib/systemd/system/containerd.service",
                containerd.as_str(),
                0o644,
            )],
        ),
        Deb::new(
            "docker-buildx-plugin",
            "0.20.0-1",
            &[("./usr/share/doc/x", "", 0o644)],
        ),
        Deb::new(
            "docker-compose-plugin",
            "2.32.4-1",
            &[("./usr/share/doc/y", "", 0o644)],
        ),
    ];
    files.extend(repository("/docker/debian", "bookworm", &debs, key));
    files.insert("/docker/debian/gpg".into(), key.public());
    files.insert("/bin/coder-linux-amd64".into(), CODER.into());
    files.insert("/agentapi-linux-amd64".into(), AGENTAPI.into());
    files
}

/// Where this machine, and so the guest image, gets Debian from.
fn mirror(kind: &str) -> String {
    let deps = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/deps.sh");
    let command = format!(". '{deps}'; deps_mirror bookworm {kind}");
    let output = Command::new("bash").args(["-c", &command]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// All of the vendors.
fn vendors(repositories: PathBuf, key: &Key) -> Server {
    let roots = [
        ("/debian/", mirror("main")),
        ("/debian-security/", mirror("security")),
    ];
    Server::answering(|address| {
        let files = files(&address.replace("127.0.0.1", "10.0.2.2"), key);
        move |request| {
            let path = request.path.as_str();
            if let Some(path) = path.strip_prefix("/git") {
                return Repositories::answer(&repositories, path, request);
            }
            for (root, mirror) in &roots {
                if let Some(path) = path.strip_prefix(root) {
                    let mut answer = Answer::new("302 Found");
                    answer.headers.push(format!("Location: {mirror}/{path}"));
                    return answer;
                }
            }
            if path.starts_with("/agent?") {
                return Answer::new("200 OK");
            }
            Answer::file(files.get(path))
        }
    })
}

const STEPS: &str = r#"
[secrets]
TOKEN = { env = "LAB_TOKEN" }

[[step]]
name = "how it was"
run = '''
mkdir /srv/before
cp -a /etc/apt /srv/before/
'''

[[step]]
use = "apt-mirror"
with = { mirror = "{{ guests }}/debian", security = "{{ guests }}/debian-security" }

[[step]]
name = "apt knows the mirror only"
run = """
apt-cache policy | grep -q ' {{ guests }}/debian '
(! apt-cache policy | grep -E '^ *[0-9]+ https?:' | grep -v ' {{ guests }}/')
"""

[[step]]
use = "users"
with = { users = [{ name = "ann", groups = ["adm"], sudo = true, authorized_keys = ["{{ ssh_key }}"] }, "ben"] }

[[step]]
name = "company"
use = "ca-certificates"
with = { file = "authorities/company.pem", name = "company" }

[[step]]
upload = { from = "authorities", to = "/srv/authorities" }

[[step]]
use = "git-config"
with = { settings = { "init.defaultBranch" = "main" }, safe_directories = ["/srv/private"] }

[[step]]
name = "ann's git"
use = "git-config"
with = { users = ["ann"], settings = { "user.name" = "Ann O'Nym", "url.https://example.org/.insteadOf" = ["a:", "b:"] } }

[[step]]
name = "clone the newest"
use = "git-clone"
with = { url = "{{ guests }}/git/public", dest = "/home/ann/src/public", owner = "ann", depth = 1 }

[[step]]
name = "clone a commit"
use = "git-clone"
with = { url = "{{ guests }}/git/public", dest = "/srv/public", ref = "{{ first }}" }

[[step]]
name = "clone with a token"
use = "git-clone"
secrets = ["TOKEN"]
with = { url = "{{ guests }}/git/private", dest = "/srv/private", ref = "v1", token_env = "TOKEN", token_over_http = true, submodules = true }

[[step]]
name = "Go, an old one"
use = "go"
with = { version = "1.24.9", index = "{{ server }}/dl/index.json", url = "{{ server }}/dl/go{version}.linux-amd64.tar.gz" }

[[step]]
name = "Go, the newest"
use = "go"
with = { index = "{{ server }}/dl/index.json", url = "{{ server }}/dl/go{version}.linux-amd64.tar.gz" }

[[step]]
name = "Docker of the vendor"
use = "docker"
with = { source = "docker", version = "27.5.1", url = "{{ guests }}/docker", key = "{{ server }}/docker/debian/gpg", fingerprint = "{{ fingerprint }}", daemon = { log-driver = "none" } }

[[step]]
name = "Docker of the vendor is there, and goes"
run = '''
test "$(dpkg-query -W -f '${Version}' docker-ce)" = '5:27.5.1-1~debian.12~bookworm'
dpkg-query -W docker-buildx-plugin docker-compose-plugin
systemctl is-active docker
systemctl is-enabled docker
grep -q '"log-driver": *"none"' /etc/docker/daemon.json
systemctl stop docker containerd
apt-get -q -y purge docker-ce docker-ce-cli containerd.io docker-buildx-plugin docker-compose-plugin
rm -r /etc/docker /etc/apt/sources.list.d/docker.sources /etc/apt/keyrings/docker.gpg
systemctl daemon-reload
'''

[[step]]
name = "Docker of Debian"
use = "docker"
with = { users = ["ann"], daemon = { log-driver = "json-file" } }

[[step]]
use = "qemu-guest-agent"

[[step]]
use = "npm-registry"
with = { url = "{{ guests }}/npm", keep = true, users = ["ann"] }

[[step]]
use = "nodejs"

[[step]]
name = "a tool with dependencies"
use = "npm-program"
with = { package = "lab-tool", program = "lab-tool", registry = "{{ server }}/npm" }

[[step]]
use = "ai-agents"
with = { claude_code = "{{ claude }}", gemini_cli = "{{ gemini }}", codex = "{{ codex }}" }

[[step]]
use = "coder-agent"
with = { url = "{{ server }}/bin/coder-linux-amd64", sha256 = "{{ coder }}", version = "2.20.0", user = "ann" }

[[step]]
use = "agentapi"
with = { url = "{{ server }}/agentapi-linux-amd64", sha256 = "{{ agentapi }}" }

[[test]]
name = "apt's sources are those of before"
run = '''
listed() { (cd "$1" && find . -printf '%p %m %u %g %l ' -type f -printf '%T@' -printf '\n' | sort); }
for place in /etc /srv/before; do
    listed $place/apt >/tmp/listed-$(basename $place)
done
cmp /tmp/listed-etc /tmp/listed-before
diff -r /etc/apt /srv/before/apt
test ! -e /var/lib/imgbuild-apt-mirror
'''

[[test]]
name = "users"
run = '''
test "$(stat -c '%U:%G %a' /home/ann/.ssh/authorized_keys)" = 'ann:ann 600'
grep -qxF '{{ ssh_key }}' /home/ann/.ssh/authorized_keys
id -nG ann | tr ' ' '\n' | grep -qx adm
id -nG ann | tr ' ' '\n' | grep -qx docker
test "$(runuser -l ann -c 'sudo -n id -u')" = 0
test -e /home/ben/.bashrc
(! runuser -l ben -c 'sudo -n true' 2>/dev/null)
'''

[[test]]
name = "the authority is trusted"
run = '''
cd /srv/authorities
openssl verify company-server.pem
(! openssl verify other-server.pem)
# As a login does, which reads /etc/environment; runuser does not.
su -l ann -c 'test "$NODE_EXTRA_CA_CERTS" = /etc/ssl/certs/ca-certificates.crt'
ls /usr/local/share/ca-certificates/imgbuild-company-*.crt
'''

[[test]]
name = "git"
run = '''
test "$(runuser -l ben -c 'git config init.defaultBranch')" = main
test "$(runuser -l ann -c 'git config user.name')" = "Ann O'Nym"
test "$(runuser -l ann -c 'git config --get-all url.https://example.org/.insteadOf')" = "$(printf 'a:\nb:')"
(! runuser -l ben -c 'git config user.name')
test -z "$(find /home/ann/src ! -user ann)"
ann() { runuser -l ann -c "git -C src/public $1"; }
test "$(ann 'rev-parse HEAD')" = {{ last }}
test "$(ann 'rev-parse --abbrev-ref HEAD')" = trunk
test "$(ann 'rev-list --count HEAD')" = 1
cd /srv/public
test "$(git rev-parse HEAD)" = {{ first }}
test -e one
test ! -e two
# Trusted by ben though it is root's.
test "$(runuser -l ben -c 'git -C /srv/private rev-parse HEAD')" = {{ private }}
test -e /srv/private/hidden
test ! -e /srv/private/later
test -e /srv/private/part/one
test ! -e /srv/private/part/two
'''

[[test]]
name = "Go"
run = '''
test "$(runuser -l ann -c 'go version')" = 'go version go1.25.4 linux/amd64'
test -e /usr/local/go/only-in-1.25.4
test ! -e /usr/local/go/only-in-1.24.9
test "$(stat -c %U /usr/local/go/bin/go)" = root
'''

[[test]]
name = "Docker"
timeout = "5m"
run = '''
systemctl is-active docker containerd
test "$(runuser -l ann -c "docker info --format '{% raw %}{{.LoggingDriver}}{% endraw %}'")" = json-file
(! runuser -l ben -c 'docker info' >/dev/null 2>&1)
# A container of what is here, since no registry of images is near.
tar -C / -chf - usr/bin/echo lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6 | docker import - lab
test "$(runuser -l ann -c 'docker run --rm --network none lab /usr/bin/echo contained')" = contained
'''

[[test]]
name = "guest agent"
run = "systemctl is-active qemu-guest-agent"

[[test]]
name = "the registry is ann's too"
run = '''
test "$(runuser -l ann -c 'npm config get registry')" = {{ guests }}/npm
grep -qxF 'registry={{ guests }}/npm' /etc/skel/.npmrc
runuser -l ann -c lab-tool | grep -qx 'the tool of the lab'
'''

[[test]]
name = "agents"
env = { AGENT = "{{ agent }}" }
run = '''
test ! -e /root/.gemini
runuser -l ann -c 'agentapi --version'
runuser -l ann -c "$AGENT --version" | sed -nE "s/^[^0-9]*([0-9]+\\.[0-9]+\\.[0-9]+).*/is $AGENT=\\1/p"
for other in claude gemini codex; do
    test "$other" = "$AGENT" || (! command -v "$other")
done
'''

[[test]]
name = "Coder's agent waits for its settings, then uses the program that is here"
run = '''
systemctl is-enabled coder-agent
(! systemctl is-active coder-agent)
printf 'CODER_AGENT_URL={{ guests }}/\nCODER_AGENT_TOKEN=of-the-workspace\n' >/etc/coder-agent.env
systemctl start coder-agent
timeout 300 sh -c 'until test -e /home/ann/asked; do sleep 1; done'
systemctl is-active coder-agent
'''
"#;

#[test]
fn each_does_what_it_says() {
    let lab = Lab::new("bundles");
    for name in ["company", "company-server", "other-server"] {
        let file = format!("authorities/{name}.pem");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm");
        lab.write(&file, std::fs::read(folder.join(&file)).unwrap());
    }
    let repositories = Repositories::new(&lab);
    let key = Key::new();
    let vendors = vendors(repositories.folder.clone(), &key);
    let Repositories {
        first,
        last,
        private,
        ..
    } = &repositories;
    let (server, guests) = (&vendors.address, vendors.for_guests());
    let (coder, agentapi) = (sha256(CODER.as_bytes()), sha256(AGENTAPI.as_bytes()));
    let fingerprint = key.fingerprint();
    // Each of them is some hundred megabytes: one a day.
    let agent = AGENTS[today() % AGENTS.len()];
    let wanted = |name: &str| if name == agent { "latest" } else { "" };
    let chosen: String = AGENTS
        .iter()
        .map(|name| format!("{name} = \"{}\"\n", wanted(name)))
        .collect();
    let more = format!(
        r#"disk = "8GiB"

[vars]
server = "{server}"
guests = "{guests}"
first = "{first}"
last = "{last}"
private = "{private}"
fingerprint = "{fingerprint}"
coder = "{coder}"
agentapi = "{agentapi}"
agent = "{agent}"
{chosen}
ssh_key = "{SSH_KEY}"
{STEPS}"#
    );
    let recipe = lab.recipe("bundles", Image::Debian, &more);
    let run = lab
        .command(&["run", recipe.to_str().unwrap()])
        .env("LAB_TOKEN", TOKEN)
        .output();
    let ended = crate::lab::Ended::from(run.unwrap()).with_code(0);
    lab.assert_nothing_left();

    let versions = lab.record("bundles")["versions"].clone();
    let version = |name: &str| versions[name].as_str().unwrap_or("none").to_owned();
    assert_eq!(version("/home/ann/src/public"), *last);
    assert_eq!(version("/srv/public"), *first);
    assert_eq!(version("/srv/private"), *private);
    assert_eq!(version("go"), "go1.25.4");
    assert_eq!(version("lab-tool"), "1.2.3");
    assert_eq!(version("coder"), "2.20.0");
    assert_eq!(version("agentapi"), "0.11.2");
    let found = format!("is {agent}={}", version(agent));
    assert!(ended.stderr.contains(&found), "`{found}` is not there");
    assert!(version("docker").starts_with("20.10."), "{versions}");

    let asked = vendors.requests();
    let times = |path: &str| asked.iter().filter(|asked| *asked == path).count();
    let begins = |start: &str| asked.iter().any(|asked| asked.starts_with(start));
    for once in [
        "/bin/coder-linux-amd64",
        "/agentapi-linux-amd64",
        "/dl/go1.24.9.linux-amd64.tar.gz",
        "/dl/go1.25.4.linux-amd64.tar.gz",
        "/npm/lab-tool/-/lab-tool-1.2.3.tgz",
        "/npm/lab-part/-/lab-part-4.5.6.tgz",
        "/agent?as=ann&in=/home/ann&auth=token&token=of-the-workspace",
    ] {
        assert_eq!(times(once), 1, "{once} in {asked:?}");
    }
    assert_eq!(times("/dl/go1.26rc1.linux-amd64.tar.gz"), 0);
    assert!(begins("/debian/dists/bookworm/"), "{asked:?}");
    assert!(begins("/debian-security/dists/"), "{asked:?}");
    assert!(begins("/debian/pool/main/d/docker.io/"), "{asked:?}");
    assert!(!lab.holds("bundles", TOKEN), "the token is in the image");
}
