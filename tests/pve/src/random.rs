//! Names that nobody else has.

/// So many random bytes in hexadecimal.
pub fn hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    // The kernel's source does not fail for so few.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random number.
pub fn byte() -> u8 {
    u8::from_str_radix(&hex(1), 16).unwrap_or_default()
}

/// A random UUID (version 4).
pub fn uuid() -> String {
    let hex = hex(16);
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..],
    ];
    format!(
        "{}-{}-4{}-a{}-{}",
        parts[0], parts[1], parts[2], parts[3], parts[4]
    )
}

/// A MAC address in Proxmox's range.
pub fn mac() -> String {
    let hex = hex(3).to_uppercase();
    format!("BC:24:11:{}:{}:{}", &hex[..2], &hex[2..4], &hex[4..])
}
