//! What a user demands of an image besides a good signature.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::sbom::cyclonedx::{self, Listed};
use super::statement::{Byproduct, Kinds, Outcome, Statement};
use super::verify::Check;
use super::version;
use crate::error::{Error, Kind, Result};
use crate::recipe::Cache;
use crate::signing::PublicKey;
use crate::text::span;

/// `[policy]`. What is not given is not demanded.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// Fingerprints of keys: one of these must have signed.
    signed_by: Option<Vec<String>>,
    /// Addresses of git repositories: the recipe must come from one of these.
    git_remote: Option<Vec<String>>,
    /// How the base image's digest must have come to be trusted: one of these words.
    base_verified_by: Option<Vec<String>>,
    /// Whether the recipe must be as it was committed.
    clean_tree: bool,
    /// How long ago the build may have ended.
    max_age: Option<MaxAge>,
    packages: Packages,
}

/// `[policy.packages]`. A package is named by its name, or by its manager too: `npm/express`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Packages {
    /// The least version, where the package is there at all.
    not_older_than: BTreeMap<String, String>,
    not_present: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct MaxAge(Cache);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    policy: Policy,
}

/// What the rules are applied to.
pub struct Facts<'f> {
    pub signer: &'f PublicKey,
    pub statement: &'f Statement,
    /// The CycloneDX document, if it is there and is the one that was signed.
    pub packages: Option<&'f [u8]>,
    pub now: Timestamp,
}

/// The ways in which a base image's digest can be trusted.
const WAYS: &[&str] = &[
    "digest",
    "checksums",
    "signature",
    "record",
    "registry",
    "flake",
    "server",
    "unverified",
];

impl Policy {
    /// Reads a policy file; `shown` names it in errors.
    pub fn read(text: &str, shown: &str) -> Result<Self> {
        let failed = |cause: String| {
            Error::new(format!("reading the policy {shown}"))
                .kind(Kind::Usage)
                .cause(cause)
        };
        let file: File = toml::from_str(text).map_err(|error| {
            failed(error.message().to_owned()).detail("where", error.to_string())
        })?;
        let ways = file.policy.base_verified_by.iter().flatten();
        if let Some(unknown) = ways.clone().find(|way| !WAYS.contains(&way.as_str())) {
            let cause = format!("`{unknown}` is no way to verify a base image");
            return Err(failed(cause).hint(crate::recipe::suggest(unknown, WAYS.iter().copied())));
        }
        if matches!(
            file.policy.max_age,
            Some(MaxAge(Cache::Forever | Cache::Never))
        ) {
            return Err(failed("max-age must be a duration such as \"30d\"".into()));
        }
        Ok(file.policy)
    }

    /// Applies every rule.
    pub fn apply(&self, facts: &Facts<'_>) -> Vec<Check> {
        let statement = facts.statement;
        let mut checks = vec![];
        if let Some(allowed) = &self.signed_by {
            let signer = facts.signer.fingerprint();
            let holds = allowed.contains(&signer);
            checks.push(Check::new(
                "policy signed-by",
                holds,
                format!("signed by {signer}"),
            ));
        }
        if let Some(allowed) = &self.git_remote {
            let remote = statement.dependencies(Kinds::Repository).next();
            let remote = remote.and_then(|repository| repository.uri.as_deref());
            let holds = remote.is_some_and(|remote| {
                let mut allowed = allowed.iter();
                allowed.any(|allowed| same_remote(allowed, remote))
            });
            let told = match remote {
                Some(remote) => format!("the recipe comes from {remote}"),
                None => "no address of a git repository is recorded".into(),
            };
            checks.push(Check::new("policy git-remote", holds, told));
        }
        if let Some(allowed) = &self.base_verified_by {
            checks.push(base(statement, allowed));
        }
        if self.clean_tree {
            let repository = statement.dependencies(Kinds::Repository).next();
            let (holds, told) = match repository.map(|found| found.annotations.dirty) {
                Some(Some(false)) => (true, "the recipe is as it was committed"),
                Some(_) => (false, "the repository had changes that were not committed"),
                None => (false, "the recipe was in no git repository"),
            };
            checks.push(Check::new("policy clean-tree", holds, told));
        }
        if let Some(MaxAge(Cache::For(most))) = &self.max_age {
            let finished = &statement.predicate.run_details.metadata.finished_on;
            let age = finished
                .parse()
                .ok()
                .map(|finished: Timestamp| facts.now.duration_since(finished).as_secs_f64());
            let holds = age.is_some_and(|age| age <= most.as_secs_f64());
            let told = match age {
                Some(age) => format!(
                    "it was built {} ago, at most {} is allowed",
                    span(age.max(0.0)),
                    span(most.as_secs_f64())
                ),
                None => "it does not say when it was built".into(),
            };
            checks.push(Check::new("policy max-age", holds, told));
        }
        checks.extend(self.packages.apply(facts));
        checks
    }
}

/// Whether the image that the build started from was verified in one of these ways.
fn base(statement: &Statement, allowed: &[String]) -> Check {
    let all = statement.dependencies(Kinds::BaseImage);
    let base = all.chain(statement.dependencies(Kinds::ParentImage)).next();
    let way = base
        .and_then(|base| serde_json::to_value(&base.annotations.verified).ok())
        .and_then(|verified| verified["by"].as_str().map(str::to_owned));
    let holds = way.as_ref().is_some_and(|way| allowed.contains(way));
    let told = match &way {
        Some(way) => format!("the base image was verified by: {way}"),
        None => "it does not say how the base image was verified".into(),
    };
    Check::new("policy base-verified-by", holds, told)
}

/// Whether two addresses name one repository: without credentials, `git+`, a slash or `.git` at the end.
fn same_remote(a: &str, b: &str) -> bool {
    let plain = |address: &str| {
        let public = super::public_address(address.strip_prefix("git+").unwrap_or(address));
        let public = public.unwrap_or_default();
        let public = public.trim_end_matches('/');
        public.strip_suffix(".git").unwrap_or(public).to_owned()
    };
    !plain(a).is_empty() && plain(a) == plain(b)
}

impl Packages {
    fn apply(&self, facts: &Facts<'_>) -> Vec<Check> {
        if self.not_older_than.is_empty() && self.not_present.is_empty() {
            return vec![];
        }
        let found = match found(facts) {
            Ok(found) => found,
            Err(why) => return vec![Check::new("policy packages", false, why)],
        };
        let called = |wanted: &str| -> Vec<&Listed> {
            let found = found.iter();
            found.filter(|package| package.is(wanted)).collect()
        };
        let mut checks = vec![];
        for (name, least) in &self.not_older_than {
            let packages = called(name);
            let old = packages.iter().find(|package| {
                version::compare(package.manager(), &package.version, least) == Ordering::Less
            });
            let told = match (old, packages.first()) {
                (Some(old), _) => format!("{} is older than {least}", old.purl()),
                (None, Some(found)) => {
                    format!("{name} {} is not older than {least}", found.version)
                }
                (None, None) => format!("{name} is not there"),
            };
            let rule = format!("policy not-older-than {name}");
            checks.push(Check::new(rule, old.is_none(), told));
        }
        for name in &self.not_present {
            let there = called(name);
            let told = match there.first() {
                Some(package) => format!("{} is there", package.purl()),
                None => format!("{name} is not there"),
            };
            let rule = format!("policy not-present {name}");
            checks.push(Check::new(rule, there.is_empty(), told));
        }
        checks
    }
}

impl Listed {
    fn manager(&self) -> &str {
        self.manager.as_deref().unwrap_or_default()
    }

    fn purl(&self) -> &str {
        self.purl.as_deref().unwrap_or_default()
    }

    fn is(&self, wanted: &str) -> bool {
        let of_manager = wanted.strip_prefix(&format!("{}/", self.manager()));
        let (name, wanted) = (self.normal(&self.name), [Some(wanted), of_manager]);
        let mut wanted = wanted.into_iter().flatten();
        wanted.any(|wanted| self.normal(wanted) == name)
    }

    /// Python's packages have many names: `PyYAML`, `pyyaml`; `a.b`, `A_b` (packaging.python.org, "Names and normalization").
    fn normal(&self, name: &str) -> String {
        if self.manager() != "pypi" {
            return name.to_owned();
        }
        let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
        let parts: Vec<String> = parts.map(str::to_lowercase).collect();
        parts.join("-")
    }
}

fn found(facts: &Facts<'_>) -> Result<Vec<Listed>, String> {
    let text = facts
        .packages
        .ok_or("the list of packages is not there, or is not the one that was signed")?;
    let listed = cyclonedx::read(text).map_err(|error| error.to_string())?;
    let is_list =
        |byproduct: &&Byproduct| byproduct.media_type.as_deref() == Some(cyclonedx::MEDIA_TYPE);
    let mut byproducts = facts.statement.predicate.run_details.byproducts.iter();
    if let Some(Some(Outcome::Unread(unread))) =
        byproducts.find(is_list).map(|list| &list.annotations)
    {
        let first = unread.first().map_or("", String::as_str);
        return Err(format!("the list of packages is not complete: {first}"));
    }
    let packages = listed.into_iter().filter(|listed| listed.manager.is_some());
    Ok(packages.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_goes_by_every_name_that_its_manager_takes_for_it() {
        let found = |manager: &str, name: &str| Listed {
            manager: Some(manager.into()),
            name: name.into(),
            version: String::new(),
            purl: None,
        };
        for name in ["PyYAML", "pyyaml", "pypi/PYYAML"] {
            assert!(found("pypi", "PyYAML").is(name), "{name}");
        }
        for name in ["zope.interface", "Zope__interface", "pypi/zope-interface"] {
            assert!(found("pypi", "zope.interface").is(name), "{name}");
        }
        assert!(found("npm", "@openai/codex").is("npm/@openai/codex"));
        assert!(!found("npm", "a.b").is("a-b"));
        assert!(!found("deb", "openssl").is("npm/openssl"));
    }
}
