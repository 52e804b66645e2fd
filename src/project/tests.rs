use super::*;

const MINIMAL: &str =
    "[targets.lab]\nkind = \"proxmox\"\nnode = \"pve\"\nstorages = { import = \"local\" }\n";

fn parse(text: &str) -> Result<Project> {
    Project::parse(FILE, PathBuf::from("/p/imgbuild.toml"), text.to_owned())
}

fn target(text: &str, variables: &[(&str, &str)]) -> Result<Target> {
    let variables = variables.iter();
    let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse(text)?.target_with("lab", &Environment::of(variables))
}

/// What is wrong with a text, and the places of it.
fn faults(text: &str) -> Vec<(String, String)> {
    let error = parse(text).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Usage);
    let faults = error.get_faults().unwrap();
    let told = |fault: &Fault| {
        let place = text.get(fault.span.clone()).unwrap_or_default();
        let hint = fault.hint.as_deref().unwrap_or_default();
        (place.to_owned(), format!("{} {hint}", fault.message))
    };
    faults.list.iter().map(told).collect()
}

#[test]
fn a_target_says_all_that_a_server_is_reached_by() {
    let text = format!(
        "{MINIMAL}endpoint = \"https://pve.example.org:8006\"\ntoken = {{ file = \"token\" }}\nbridge = \"vmbr0\"\n\
         vmid-range = \"9000-9099\"\nfingerprint = \"{}\"\n",
        "0a".repeat(32)
    );
    let target = target(&text, &[]).unwrap();
    assert_eq!(
        target.remote.endpoint.as_str(),
        "https://pve.example.org:8006/"
    );
    assert_eq!(target.remote.vmids, Some(9000..=9099));
    assert_eq!(target.login_from(), "/p/token");
    assert!(matches!(
        target.remote.trust,
        proxmox::Trust::Fingerprint(_)
    ));
}

#[test]
fn a_target_may_be_on_any_node_of_a_cluster() {
    let environment = [
        ("PROXMOX_URL", "https://x:8006"),
        ("PROXMOX_VE_API_TOKEN", "me@pve!x=secret"),
    ];
    let fixed = target(MINIMAL, &environment).unwrap().remote;
    assert!(!fixed.is_auto);
    assert_eq!(fixed.builds_per_node, 2);
    let text = MINIMAL.replace("\"pve\"", "\"auto\"");
    let text = format!("{text}builds-per-node = 3\nreplicate = [\"pve2\", \"pve3\"]\n");
    let any = target(&text, &environment).unwrap().remote;
    assert!(any.is_auto);
    assert_eq!(any.builds_per_node, 3);
    assert_eq!(any.replicate, ["pve2", "pve3"]);
}

#[test]
fn every_fault_is_told_with_its_place() {
    for (line, place, told) in [
        ("endpiont = \"x\"", "endpiont", "did you mean `endpoint`?"),
        (
            "endpoint = \"http://pve:8006\"",
            "\"http://pve:8006\"",
            "https",
        ),
        (
            "endpoint = \"https://me:pw@pve\"",
            "\"https://me:pw@pve\"",
            "no password",
        ),
        (
            "endpoint = \"https://pve:8006/x\"",
            "\"https://pve:8006/x\"",
            "`/x`",
        ),
        (
            "token = { env = \"A\", file = \"b\" }",
            "{ env = \"A\", file = \"b\" }",
            "exactly one",
        ),
        (
            "token = { comand = \"A\" }",
            "comand",
            "did you mean `command`?",
        ),
        ("user = \"root@pam\"", "\"root@pam\"", "without a password"),
        (
            "password = { env = \"A\" }",
            "{ env = \"A\" }",
            "without a user",
        ),
        (
            "user = \"root\"\npassword = { env = \"A\" }",
            "\"root\"",
            "realm",
        ),
        ("builds-per-node = 0", "0", "no build could run"),
        ("replicate = [\"a/b\"]", "\"a/b\"", "cannot be a name"),
        ("replicate = [\"auto\"]", "\"auto\"", "nodes by their names"),
        ("replicate = [\"pve\"]", "\"pve\"", "are made on this node"),
        ("replicate = [ \"pve2\", 'pve2' ]", "'pve2'", "named twice"),
        ("fingerprint = \"0a:0b\"", "\"0a:0b\"", "32 pairs"),
        ("bridge = \"../x\"", "\"../x\"", "cannot be a name"),
        ("vmid-range = \"9000\"", "\"9000\"", "9000-9099"),
        ("vmid-range = \"99-200\"", "\"99-200\"", "100"),
        (
            "vmid-range = \"200-100\"",
            "\"200-100\"",
            "smaller one first",
        ),
    ] {
        let found = faults(&format!("{MINIMAL}{line}\n"));
        assert_eq!(found.len(), 1, "{line}: {found:?}");
        assert_eq!(found[0].0, place, "{line}");
        assert!(found[0].1.contains(told), "{line}: {found:?}");
    }
    assert!(
        faults("[target.lab]\n")[0]
            .1
            .contains("did you mean `targets`?")
    );
    let found = faults("[targets.lab]\nkind = \"vmware\"\n");
    assert!(found[0].1.contains("expected `proxmox`"), "{found:?}");
    let found = faults("[targets.lab]\nkind = \"proxmox\"\n");
    assert!(found[0].1.contains("`node` is missing"), "{found:?}");
}

#[test]
fn a_secret_that_stands_in_the_file_is_refused_and_not_shown() {
    let text = format!("{MINIMAL}token = \"me@pve!ci=hunter2\"\n");
    let error = parse(&text).unwrap_err();
    let faults = error.get_faults().unwrap();
    assert!(faults.list[0].message.contains("in clear"));
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[test]
fn a_secret_beside_another_fault_is_not_shown_either() {
    for lines in [
        "token = \"me@pve!ci=hunter2\"\nbridge = \n",
        "bridge = \ntoken = me@pve!ci=hunter2\n",
        "api-token = \"me@pve!ci=hunter2\"\n",
        "token = { value = \"hunter2\" }\n",
        "password = \"\"\"\nhunter2\"\"\"\n",
        "endpoint = \"https://root:hunter2@pve:8006\"\n",
    ] {
        let error = parse(&format!("{MINIMAL}{lines}")).unwrap_err();
        let shown = format!("{error:?}");
        assert!(!shown.contains("hunter2"), "{lines}: {shown}");
    }
    let error = parse(&format!(
        "{MINIMAL}token = {{ env = \"LAB_TOKEN\" }}\nbridge = \n"
    ));
    assert!(format!("{:?}", error.unwrap_err()).contains("LAB_TOKEN"));
}

#[test]
fn the_environment_fills_in_what_the_file_leaves_out() {
    let all = [
        ("PM_API_URL", "https://pm:8006/api2/json"),
        ("PM_API_TOKEN_ID", "pm@pve!x"),
        ("PM_API_TOKEN_SECRET", "pm-secret"),
        ("PROXMOX_URL", "https://packer:8006/api2/json"),
        ("PROXMOX_USERNAME", "packer@pve!x"),
        ("PROXMOX_TOKEN", "packer-secret"),
        ("PROXMOX_VE_ENDPOINT", "https://ve:8006/"),
        ("PROXMOX_VE_API_TOKEN", "ve@pve!x=ve-secret"),
    ];
    for (count, host, login) in [
        (3, "pm", "PM_API_TOKEN_SECRET in the environment"),
        (6, "packer", "PROXMOX_TOKEN in the environment"),
        (8, "ve", "PROXMOX_VE_API_TOKEN in the environment"),
    ] {
        let target = target(MINIMAL, &all[..count]).unwrap();
        assert_eq!(
            target.remote.endpoint.as_str(),
            format!("https://{host}:8006/")
        );
        assert_eq!(target.login_from(), login);
        assert!(!format!("{target:?}").contains("secret\""), "{target:?}");
    }
    let text = format!("{MINIMAL}endpoint = \"https://file:8006\"\ntoken = {{ env = \"T\" }}\n");
    let target = target(&text, &all).unwrap();
    assert_eq!(target.remote.endpoint.host_str(), Some("file"));
    assert_eq!(target.login_from(), "T (named in imgbuild.toml)");
}

#[test]
fn what_neither_file_nor_environment_says_is_asked_for() {
    let error = target(MINIMAL, &[]).unwrap_err();
    let fault = &error.get_faults().unwrap().list[0];
    assert!(fault.message.contains("no endpoint"));
    let error = target(MINIMAL, &[("PROXMOX_URL", "https://x:8006")]).unwrap_err();
    assert!(
        error.get_faults().unwrap().list[0]
            .message
            .contains("no login")
    );
    let environment = Environment::of([]);
    let error = parse(MINIMAL)
        .unwrap()
        .target_with("lap", &environment)
        .unwrap_err();
    assert_eq!(error.get_hint(), Some("did you mean `lab`?"));
}
