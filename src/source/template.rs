//! How a recipe names a template on a server.

use std::fmt;
use std::str::FromStr;

use crate::text::is_dns_label;

/// The ids that machines can have on Proxmox VE.
const VMIDS: std::ops::RangeInclusive<u32> = 100..=999_999_999;

/// A template on a server, by its id or by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateId {
    Vmid(u32),
    Name(String),
}

impl TemplateId {
    /// The template of this id, if a machine can have it.
    pub fn of_number(number: u64) -> Option<Self> {
        let vmid = u32::try_from(number).ok();
        vmid.filter(|vmid| VMIDS.contains(vmid))
            .map(TemplateId::Vmid)
    }
}

impl FromStr for TemplateId {
    type Err = String;

    /// All digits are an id, as `qm` on a node takes them: a variable of a recipe may be text.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let named = match is_number {
            true => text.parse().ok().and_then(TemplateId::of_number),
            false => {
                let is_name = !text.is_empty() && text.split('.').all(is_host_label);
                is_name.then(|| TemplateId::Name(text.to_owned()))
            }
        };
        named.ok_or_else(|| {
            format!("`{text}` is no template: write its id, 100 to 999999999, or its name")
        })
    }
}

/// Whether it can be a part of a name on Proxmox VE, where capital letters are allowed.
fn is_host_label(text: &str) -> bool {
    is_dns_label(&text.to_ascii_lowercase())
}

impl fmt::Display for TemplateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateId::Vmid(vmid) => write!(f, "{vmid}"),
            TemplateId::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_named_by_its_id_or_its_name() {
        assert_eq!("9000".parse(), Ok(TemplateId::Vmid(9000)));
        assert_eq!(TemplateId::of_number(9000), Some(TemplateId::Vmid(9000)));
        for name in ["debian-12", "Debian12", "base.example.org", "9000-base"] {
            assert_eq!(name.parse(), Ok(TemplateId::Name(name.into())));
        }
        for wrong in ["", "99", "1000000000", "debian 12", "-a", "a..b", "a_b"] {
            wrong.parse::<TemplateId>().unwrap_err();
        }
        assert_eq!(TemplateId::of_number(99), None);
    }
}
