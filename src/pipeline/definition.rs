//! What an image is made from, and how: what is told in it and beside it.

use std::path::Path;

use super::bench::Bench;
use super::public::Public;
use crate::plan::{Action, Role, Step};
use crate::provenance::statement::*;
use crate::provenance::{digests, file_name, public_url, sha256};
use crate::record::{self, Tools};
use crate::seed::UserData;
use crate::source::{Basis, Verified};

/// What goes into an image: all of it is known before it is sealed. `steps` are the plan's, as they were done.
pub(super) fn of(
    bench: &Bench<'_>,
    base: &Basis,
    tools: &Tools,
    steps: &[Step],
) -> BuildDefinition {
    let (plan, public) = (bench.plan, bench.public());
    let repository = bench.repository.as_ref();
    let recipe = plan.texts.first().map_or("", |(name, _)| name);
    let prefix = repository.map_or("", |repository| &repository.prefix);
    let vars = plan.vars.iter();
    let secrets: std::collections::BTreeSet<&String> =
        steps.iter().flat_map(|step| &step.secrets).collect();
    let of = |role: Role| {
        let steps = steps.iter().filter(move |step| step.role == role);
        steps.map(|step| done(step, &public)).collect()
    };
    BuildDefinition {
        build_type: BUILD_TYPE.into(),
        external_parameters: External {
            image: Image {
                name: plan.name.clone(),
                version: bench.version.number.to_string(),
                label: bench.version.label.clone(),
                description: public.text(&plan.description),
                labels: plan
                    .labels
                    .iter()
                    .map(|(name, value)| (public.text(name), public.text(value)))
                    .collect(),
            },
            recipe: format!("{prefix}{}", file_name(Path::new(recipe))),
            vars: vars
                .map(|(name, value)| (name.clone(), public.value(value)))
                .collect(),
            secrets: secrets.into_iter().cloned().collect(),
            left_out: plan.left_out.iter().map(|name| public.text(name)).collect(),
        },
        internal_parameters: Internal {
            import: plan.import,
            machine: (!plan.import).then(|| Machine {
                cpus: plan.machine.cpus,
                memory: plan.machine.memory,
                firmware: plan.machine.firmware.name().into(),
                accelerator: tools.accelerator.into(),
            }),
            steps: of(Role::Step),
            tests: of(Role::Test),
            seal_kept: (!plan.import)
                .then(|| plan.keep.iter().map(|item| item.name().into()).collect()),
            format: tools.format.into(),
        },
        resolved_dependencies: dependencies(bench, base, steps),
    }
}

fn done(step: &Step, public: &Public) -> Done {
    Done {
        name: public.text(&step.name),
        action: step.action.name().into(),
        sha256: step.digest.clone(),
    }
}

fn dependencies(bench: &Bench<'_>, base: &Basis, steps: &[Step]) -> Vec<Dependency> {
    let (plan, public) = (bench.plan, bench.public());
    let mut all = vec![base_image(base)];
    if let Some(repository) = &bench.repository {
        all.push(Dependency {
            name: "repository".into(),
            uri: repository
                .remote
                .as_ref()
                .map(|remote| format!("git+{remote}")),
            digest: Digests::from([("gitCommit".to_owned(), repository.commit.clone())]),
            annotations: About {
                dirty: Some(repository.dirty),
                ..About::new(Kinds::Repository)
            },
        });
    }
    let named = |kind: Kinds, name: &str, location: &str, digest: &str| Dependency {
        name: name.to_owned(),
        uri: public_url(location),
        digest: sha256(digest),
        annotations: About::new(kind),
    };
    all.extend(
        plan.texts
            .iter()
            .map(|(name, sha256)| named(Kinds::Recipe, &file_name(Path::new(name)), "", sha256)),
    );
    all.extend(plan.documents.iter().map(|document| {
        named(
            Kinds::Data,
            &document.name,
            &document.location,
            &document.sha256,
        )
    }));
    let user_data = plan.seed.user_data.as_ref().map(|data| match data {
        UserData::Text(text) => text.clone(),
        UserData::Config(table) => table.to_string(),
    });
    let seed = [
        ("user-data", &user_data),
        ("network-config", &plan.seed.network_config),
        ("vendor-data", &plan.seed.vendor_data),
    ];
    for (name, text) in seed {
        if let Some(text) = text {
            all.push(Dependency {
                name: name.into(),
                uri: None,
                digest: digests(text.as_bytes()),
                annotations: About::new(Kinds::CloudInit),
            });
        }
    }
    all.extend(steps.iter().flat_map(|step| of_step(step, &public)));
    for dependency in &mut all {
        // What an address is called, or has in its path, comes from the recipe as well.
        dependency.name = public.of_guest(&dependency.name);
        dependency.uri = dependency.uri.as_deref().map(|uri| public.of_guest(uri));
    }
    all
}

fn base_image(base: &Basis) -> Dependency {
    let kind = match base.verified {
        Verified::Record { .. } | Verified::Registry { .. } => Kinds::ParentImage,
        _ => Kinds::BaseImage,
    };
    Dependency {
        name: file_name(Path::new(&base.origin)),
        uri: public_url(&base.origin),
        digest: (base.content())
            .map(|digest| (digest.algorithm.name().into(), digest.hex.clone()))
            .into_iter()
            .collect(),
        annotations: About {
            verified: Some(record::public(&base.verified)),
            ..About::new(kind)
        },
    }
}

/// What one step uses.
fn of_step(step: &Step, public: &Public) -> Vec<Dependency> {
    let step_name = public.text(&step.name);
    let about = |kind: Kinds, to: Option<String>| About {
        step: Some(step_name.clone()),
        to: to.map(|to| public.of_guest(&to)),
        ..About::new(kind)
    };
    match &step.action {
        Action::Run { script } | Action::Local { script, .. } => vec![Dependency {
            name: step_name.clone(),
            uri: None,
            digest: digests(script),
            annotations: about(Kinds::Script, None),
        }],
        Action::Upload { tree, to, .. } => {
            // Content of the recipe's own has no file here.
            let root = match tree.root.file_name() {
                Some(name) => name.to_string_lossy().into_owned(),
                None => file_name(Path::new(to)),
            };
            let to = match to.ends_with('/') {
                true => format!("{to}{root}"),
                false => to.clone(),
            };
            let below = |start: &str, path: &Path| match path.as_os_str().is_empty() {
                true => start.to_owned(),
                false => format!("{start}/{}", path.display()),
            };
            let files = step.files.iter();
            files
                .map(|(path, digest)| Dependency {
                    name: below(&root, path),
                    uri: None,
                    digest: sha256(digest),
                    annotations: about(Kinds::Upload, Some(below(&to, path))),
                })
                .collect()
        }
        Action::Fetch(fetch) => {
            let digest = &fetch.digest;
            let name = digest.algorithm.name().to_owned();
            vec![Dependency {
                name: fetch.name().to_owned(),
                uri: fetch.urls.first().and_then(|url| public_url(url)),
                digest: Digests::from([(name, digest.hex.clone())]),
                annotations: about(Kinds::Fetch, Some(fetch.to.clone())),
            }]
        }
        Action::Packages { .. } | Action::Download { .. } | Action::Reboot | Action::Breakpoint => {
            vec![]
        }
    }
}
