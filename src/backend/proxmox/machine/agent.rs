//! What the guest agent tells of where its guest is.

use std::net::IpAddr;

use serde::Deserialize;

use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::error::Failure;
use crate::error::Result;

/// What the guest agent said last.
#[derive(Default)]
pub enum Agent {
    #[default]
    Unasked,
    Told(Vec<IpAddr>),
    Silent(String),
    /// We may not ask it.
    Forbidden(Failure),
    /// There is no guest any more.
    Stopped,
}

impl Agent {
    /// What an answer means.
    pub fn of(told: Result<Vec<IpAddr>, Failure>) -> Self {
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
pub async fn interfaces(server: &Proxmox, vmid: u32) -> Result<Vec<IpAddr>, Failure> {
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
}
