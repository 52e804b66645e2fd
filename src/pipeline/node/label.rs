//! What a finished template is called on its server, and what is said of it there.

use std::fmt::Write as _;

use crate::backend::proxmox::StoredImage;
use crate::backend::proxmox::machine::{Label, fixed_tags};
use crate::pipeline::attest::Beside;
use crate::pipeline::bench::Bench;
use crate::plan::Plan;
use crate::provenance::{Files, digests};
use crate::record::TemplateFile;

/// How much of the recipe's own description is told: Proxmox VE takes 8192 characters in all.
const DESCRIPTION: usize = 4000;

/// The tags of a version's template; channels come later.
pub(super) fn tags(plan: &Plan, build: &str, number: u32, label: Option<&str>) -> Vec<String> {
    let mut tags = fixed_tags(build, &plan.name, number, label);
    tags.extend(plan.proxmox.tags.iter().cloned());
    tags
}

/// The label of a template that is about to be published. Everything in it is public.
pub(super) fn label(
    bench: &Bench<'_>,
    template: &TemplateFile,
    base: &StoredImage,
    beside: &Beside,
) -> Label {
    let (plan, version) = (bench.plan, &bench.version);
    let label = version.label.as_deref();
    let tags = tags(plan, &bench.run.id, version.number, label);
    let named = version.label.as_ref().map(|label| format!(" ({label})"));
    let mut text = format!(
        "**{} {}**{}, built by imgbuild {} on {}\n",
        plan.name,
        version.number,
        named.unwrap_or_default(),
        env!("CARGO_PKG_VERSION"),
        bench.started.strftime("%F %R UTC"),
    );
    let said = bench.public().text(&plan.description);
    if !said.is_empty() {
        let said: String = said.chars().take(DESCRIPTION).collect();
        let _ = write!(text, "\n{said}\n");
    }
    let statement = Files::of(bench.final_path()).statement;
    let statement = beside.iter().find(|(path, _)| *path == statement);
    let statement = statement.and_then(|(_, bytes)| digests(bytes).remove("sha256"));
    let facts = [
        ("disk", format!("sha256:{}", template.disk)),
        ("base", base.volume.clone()),
        ("build", bench.run.id.clone()),
        (
            "statement",
            format!("sha256:{}", statement.unwrap_or_default()),
        ),
        ("signed by", bench.signer.public().fingerprint().to_string()),
    ];
    text.push_str("\n| | |\n|---|---|\n");
    for (name, value) in facts {
        let _ = writeln!(text, "| {name} | `{value}` |");
    }
    Label {
        name: template.name.clone(),
        tags,
        description: text,
    }
}
