//! One test for each behaviour in the server's table, named after it.

mod by_hand;
mod client;
mod consoles;
mod creating;
mod errors;
mod faults;
mod guests;
mod http;
mod life;
mod locks;
mod plugging;
mod rights;
mod sandboxes;
mod tasks;
mod uploads;

/// A row without a test would be a claim.
#[test]
fn each_behaviour_has_a_test() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/behaviours");
    let files = std::fs::read_dir(folder).unwrap();
    let texts: String = files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    for behaviour in pve_lab::BEHAVIOURS {
        let test = format!("#[test]\nfn {}() {{", behaviour.id);
        assert_eq!(texts.matches(&test).count(), 1, "{}", behaviour.id);
    }
}
