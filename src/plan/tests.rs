//! Plans of recipes.

use super::*;
use crate::recipe::{self, NoWeb, Overrides};
use futures_util::FutureExt;
use std::path::Path;

pub(super) fn plan(text: &str) -> Plan {
    plan_on(Target::Qemu, text)
}

pub(super) fn plan_on(on: Target, text: &str) -> Plan {
    plan_of(on, "file = 'base.qcow2'", text)
}

fn plan_of(on: Target, source: &str, text: &str) -> Plan {
    let whole = format!("[image]\nname = 'x'\n[source]\n{source}\n{text}");
    let overrides = Overrides::default();
    let recipes = recipe::parse("x.toml", &whole, Path::new("/recipes"), &overrides, &NoWeb);
    let recipes = recipes.now_or_never().unwrap().unwrap();
    let facts = Facts {
        current_folder: "/here".into(),
        target: (on == Target::Proxmox).then(|| "lab".to_owned()),
        ..Facts::default()
    };
    Plan::new(&recipes[0], &facts)
}

#[test]
fn paths_start_where_a_user_expects() {
    let plan = plan("");
    let file = source::Spec::File {
        path: "/recipes/base.qcow2".into(),
        verify: None,
    };
    assert_eq!(plan.source, file, "inputs: beside the recipe");
    assert_eq!(
        plan.output.path,
        Path::new("/here/out/x.qcow2"),
        "outputs: here"
    );
}

#[test]
fn a_version_is_one_where_it_is_built_on_unless_the_recipe_says_where() {
    let image = |on, text: &str| match plan_of(on, &format!("image = '{text}'"), "").source {
        source::Spec::Version { reference } => reference.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(image(Target::Qemu, "base@stable"), "base@stable");
    assert_eq!(image(Target::Proxmox, "base@stable"), "lab/base@stable");
    for on in [Target::Qemu, Target::Proxmox] {
        assert_eq!(image(on, "office/base@7"), "office/base@7");
    }
}

#[test]
fn a_template_is_named_by_its_id_or_its_name() {
    let template = |text: &str| match plan_of(Target::Proxmox, text, "").source {
        source::Spec::Template { template } => template,
        other => panic!("{other:?}"),
    };
    assert_eq!(template("template = 9000"), source::TemplateId::Vmid(9000));
    assert_eq!(
        template("template = '9000'"),
        source::TemplateId::Vmid(9000)
    );
    assert_eq!(
        template("template = 'debian'"),
        source::TemplateId::Name("debian".into())
    );
}

#[test]
fn a_steps_digest_follows_what_it_does_and_nothing_else() {
    let digest = |step: &str| plan(&format!("[[step]]\n{step}")).steps[0].digest.clone();
    let first = digest("run = 'true'");
    for same in [
        "run = 'true'\nname = 'n'",
        "run = 'true'\ntimeout = '5m'",
        "run = \"true\"",
    ] {
        assert_eq!(digest(same), first, "{same}");
    }
    for other in [
        "run = 'true '",
        "run = 'true'\nsudo = false",
        "run = 'true'\nenv = { A = '1' }",
        "packages = ['true']",
    ] {
        assert_ne!(digest(other), first, "{other}");
    }
}

#[test]
fn unnamed_steps_are_called_by_action_and_number() {
    let plan = plan("[[step]]\nrun = 'a'\n[[step]]\nreboot = true");
    let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["run-1", "reboot-2"]);
}
