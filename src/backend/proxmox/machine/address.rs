//! Finding the way into a guest: every address that is known of it is tried at once, and the first at which it answers with
//! the host key that it was given is the one.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::error::Failure;
use crate::error::{Error, Result};
use crate::ssh::{self, Login, SshSession};

/// How often the guest agent is asked.
const PACE: Duration = Duration::from_secs(1);

/// Who can be logged in to, once it is known where.
pub struct Door<'d> {
    pub user: &'d str,
    pub client_key: &'d ssh_key::PrivateKey,
    pub host_key: &'d ssh_key::PublicKey,
    pub port: u16,
    /// Addresses that are known before the guest tells any.
    pub known: Vec<IpAddr>,
}

impl Door<'_> {
    pub(super) fn login(&self, address: IpAddr) -> Login {
        Login {
            address: SocketAddr::new(address, self.port),
            user: self.user.to_owned(),
            private_key: self.client_key.clone(),
            host_key: self.host_key.clone(),
        }
    }
}

/// Waits until a guest can be worked in, and returns where that is.
pub async fn connect(
    server: &Proxmox,
    vmid: u32,
    door: &Door<'_>,
    patience: Duration,
) -> Result<(SshSession, IpAddr)> {
    let end = Instant::now() + patience;
    let attempt = async |address: IpAddr| {
        let left = end.saturating_duration_since(Instant::now());
        let session = ssh::connect(&door.login(address), left).await;
        (address, session)
    };
    let mut tried = BTreeSet::new();
    let mut attempts = FuturesUnordered::new();
    let (mut agent, mut failed) = (Agent::Unasked, vec![]);
    for address in &door.known {
        if tried.insert(*address) {
            attempts.push(attempt(*address));
        }
    }
    let mut next = Instant::now();
    loop {
        let ask = async {
            sleep_until(next).await;
            interfaces(server, vmid).await
        };
        tokio::select! {
            Some((address, session)) = attempts.next() => match session {
                Ok(session) => return Ok((session, address)),
                Err(error) => failed.push(format!("{address}: {error}")),
            },
            told = ask, if !matches!(agent, Agent::Forbidden(_)) => {
                agent = Agent::of(told);
                next = Instant::now() + PACE;
                match &agent {
                    Agent::Told(addresses) => for address in addresses {
                        if tried.insert(*address) {
                            attempts.push(attempt(*address));
                        }
                    },
                    Agent::Stopped => return Err(stopped(vmid)),
                    // Nobody else will tell one.
                    Agent::Forbidden(_) if tried.is_empty() => break,
                    _ => {}
                }
            }
            // Attempts end at the same time, and say why.
            () = sleep_until(end), if attempts.is_empty() => break,
        }
    }
    Err(unreachable(server, vmid, patience, &agent, &failed))
}

/// What the guest agent said last.
enum Agent {
    Unasked,
    Told(Vec<IpAddr>),
    Silent(String),
    /// We may not ask it.
    Forbidden(Failure),
    /// There is no guest any more.
    Stopped,
}

impl Agent {
    fn of(told: Result<Vec<IpAddr>, Failure>) -> Self {
        match told {
            Ok(addresses) => Agent::Told(addresses),
            Err(failure) if failure.why.status() == Some(403) => Agent::Forbidden(failure),
            Err(failure) if failure.why.says("is not running") && !failure.why.says("agent") => {
                Agent::Stopped
            }
            Err(failure) => Agent::Silent(failure.why.to_string()),
        }
    }
}

/// The addresses that the guest says it has.
async fn interfaces(server: &Proxmox, vmid: u32) -> Result<Vec<IpAddr>, Failure> {
    let told: Interfaces = server.ask_agent(vmid, "network-get-interfaces").await?;
    Ok(told.addresses())
}

#[derive(Deserialize)]
struct Interfaces {
    result: Vec<Interface>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Interface {
    name: String,
    #[serde(default)]
    ip_addresses: Vec<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Address {
    ip_address: String,
}

impl Interfaces {
    /// All but those of the guest's own loopback, and those that mean nothing without an interface.
    fn addresses(&self) -> Vec<IpAddr> {
        let interfaces = self.result.iter().filter(|it| it.name != "lo");
        let addresses = interfaces.flat_map(|it| &it.ip_addresses);
        let addresses = addresses.filter_map(|it| it.ip_address.parse().ok());
        addresses.filter(|it| !is_link_local(it)).collect()
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The static addresses in a network configuration for cloud-init: what is written there as address with prefix
/// (`192.0.2.10/24`), and is no network. Whatever else that finds has not our host key.
pub fn static_addresses(config: &str) -> Vec<IpAddr> {
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/');
    let words = config.split(|c| !is_part(c));
    let words = words.filter_map(|word| {
        let (address, prefix) = word.trim_matches(':').split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let (bits, width) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let prefix: u32 = prefix.parse().ok().filter(|prefix| *prefix <= width)?;
        let host = width - prefix;
        let is_network = host > 0 && bits.trailing_zeros() >= host;
        (!is_network).then_some(address)
    });
    words.collect()
}

fn stopped(vmid: u32) -> Error {
    Error::new(format!("waiting for SSH in the machine {vmid}"))
        .cause("it does not run any more: the guest has powered off, or crashed")
        .hint("does the image boot with the recipe's `[machine] firmware`?")
}

fn unreachable(
    server: &Proxmox,
    vmid: u32,
    patience: Duration,
    agent: &Agent,
    failed: &[String],
) -> Error {
    let seconds = patience.as_secs();
    let error = Error::new(format!(
        "waiting for SSH in the machine {vmid} for {seconds} s"
    ));
    let told = match agent {
        Agent::Unasked => "the guest agent was not asked".to_owned(),
        Agent::Told(addresses) if addresses.is_empty() => "the guest has no address yet".to_owned(),
        Agent::Told(_) => "the guest agent has told its addresses".to_owned(),
        Agent::Silent(said) => format!("the guest agent does not answer ({said})"),
        Agent::Forbidden(failure) => format!("the guest agent must not be asked ({failure})"),
        Agent::Stopped => "it does not run".to_owned(),
    };
    let console = format!(
        "to see it boot, run `qm terminal {vmid}` on {} while this waits",
        server.target.node
    );
    if failed.is_empty() {
        let hint = match agent {
            Agent::Forbidden(failure) => failure.hint(),
            _ => None,
        };
        let hint = hint.unwrap_or_else(|| {
            "the image must have the guest agent, or the recipe a static address in `[cloud-init] \
             network-config`"
                .to_owned()
        });
        let cause = format!("it is not known at which address it is: {told}");
        return error.cause(cause).hint(format!("{hint}; {console}"));
    }
    error
        .cause(format!("{}; {told}", failed.join("; ")))
        .hint(format!(
            "is there a way from here to the bridge? If the guest is only slow, raise `[ssh] timeout`; {console}"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_s_addresses_are_those_that_lead_into_the_guest() {
        let told = r#"{"result": [
            {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]},
            {"name": "eth0", "hardware-address": "bc:24:11:00:00:01", "ip-addresses": [
                {"ip-address": "192.0.2.10", "ip-address-type": "ipv4", "prefix": 24},
                {"ip-address": "2001:db8::a", "ip-address-type": "ipv6", "prefix": 64},
                {"ip-address": "fe80::be24:11ff:fe00:1", "ip-address-type": "ipv6", "prefix": 64}]},
            {"name": "eth1"}
        ]}"#;
        let told: Interfaces = serde_json::from_str(told).unwrap();
        let expected: Vec<IpAddr> = vec![
            "192.0.2.10".parse().unwrap(),
            "2001:db8::a".parse().unwrap(),
        ];
        assert_eq!(told.addresses(), expected);
    }

    #[test]
    fn static_addresses_are_found_in_both_versions_and_notations() {
        let yaml = "version: 2\nethernets:\n  any:\n    match: {name: 'e*'}\n    addresses: [192.0.2.10/24, \"2001:db8::a/64\"]\n    \
                    routes:\n      - to: 0.0.0.0/0\n        via: 192.0.2.1\n      - to: 10.0.0.0/8\n        via: 192.0.2.2\n";
        let expected: Vec<IpAddr> = vec![
            "192.0.2.10".parse().unwrap(),
            "2001:db8::a".parse().unwrap(),
        ];
        assert_eq!(static_addresses(yaml), expected);
        let json = r#"{"config": [{"subnets": [{"type": "static", "address":"192.0.2.11/32"}]}]}"#;
        assert_eq!(
            static_addresses(json),
            ["192.0.2.11".parse::<IpAddr>().unwrap()]
        );
        assert!(static_addresses("version: 2\nethernets: {any: {dhcp4: true}}").is_empty());
        assert!(static_addresses("addresses: [192.0.2.10/33, 1/2, a/b]").is_empty());
    }
}
