//! What types cannot say about `imgbuild.toml`: keys that go together, and names that go into addresses.

use super::types::{Secret, Target};
use crate::backend::proxmox;
use crate::error::Fault;
use crate::recipe::Spanned;
use crate::text::is_plain_name;

pub fn target(target: &Target, faults: &mut Vec<Fault>) {
    if let Some(endpoint) = &target.endpoint
        && let Err(why) = proxmox::endpoint(endpoint.get_ref())
    {
        faults.push(
            Fault::new(endpoint.span(), why)
                .hint("write for instance \"https://pve.example.org:8006\""),
        );
    }
    for secret in [&target.token, &target.password].into_iter().flatten() {
        one_origin(secret, faults);
    }
    login(target, faults);
    cluster(target, faults);
    if let (Some(_), Some(ca)) = (&target.fingerprint, &target.ca) {
        let message = "beside `fingerprint`, which trusts one certificate whoever signed it";
        faults.push(Fault::new(ca.span(), message).hint("leave one of the two out"));
    }
    let storages = &target.storages;
    let names = [Some(&target.node), Some(&storages.import)];
    let more = [&storages.images, &storages.iso, &target.bridge];
    let more = more.into_iter().filter_map(Option::as_ref);
    let more = more.chain(&target.replicate);
    for name in names.into_iter().flatten().chain(more) {
        if !is_plain_name(name.get_ref()) {
            let message = format!("`{}` cannot be a name on Proxmox VE", name.get_ref());
            faults.push(Fault::new(name.span(), message).hint("letters, digits, `.`, `-` and `_`"));
        }
    }
}

/// What says how builds and templates are spread over nodes.
fn cluster(target: &Target, faults: &mut Vec<Fault>) {
    if let Some(builds) = &target.builds_per_node
        && *builds.get_ref() == 0
    {
        let message = "no build could run anywhere";
        faults.push(Fault::new(builds.span(), message).hint("write 1 or more"));
    }
    for (at, node) in target.replicate.iter().enumerate() {
        let name = node.get_ref();
        let earlier = || target.replicate[..at].iter();
        let (message, hint) = if name == proxmox::AUTO {
            ("templates are copied to nodes by their names", "name each")
        } else if earlier().any(|other| other.get_ref() == name) {
            ("this node is named twice", "leave one of the two out")
        } else if name == target.node.get_ref() {
            ("templates are made on this node", "leave it out")
        } else {
            continue;
        };
        faults.push(Fault::new(node.span(), message).hint(hint));
    }
}

fn login(target: &Target, faults: &mut Vec<Fault>) {
    match (&target.user, &target.password) {
        (Some(user), None) => faults.push(
            Fault::new(user.span(), "a user without a password")
                .hint("add `password`, or use `token`, whose value names its user"),
        ),
        (None, Some(password)) => faults.push(
            Fault::new(password.span(), "a password without a user")
                .hint("add `user = \"NAME@REALM\"`"),
        ),
        (Some(user), Some(_)) if target.token.is_some() => faults.push(
            Fault::new(user.span(), "two ways to log in")
                .hint("leave `token` out, or `user` and `password`"),
        ),
        (Some(user), Some(_)) if !user.get_ref().contains('@') => faults.push(
            Fault::new(user.span(), "it has no realm").hint("write for instance \"root@pam\""),
        ),
        _ => {}
    }
}

fn one_origin(secret: &Spanned<Secret>, faults: &mut Vec<Fault>) {
    let from = secret.get_ref();
    let given = [&from.env, &from.file, &from.command];
    if given.into_iter().flatten().count() != 1 {
        let message = "a secret needs exactly one of `env`, `file` and `command`";
        faults.push(Fault::new(secret.span(), message));
    }
}
