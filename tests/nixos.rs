//! Images from flakes, built by the real nix.

mod lab;

use std::process::Command;

use lab::Lab;

/// A flake whose output holds these files; it needs nothing that nix would have to download.
fn flake(files: &[&str]) -> String {
    let copies = files
        .iter()
        .map(|file| format!(" && /bin/cp ${{./disk}} $out/{file}"));
    let copies: String = copies.collect();
    format!(
        r#"{{
  outputs = {{ self }}: {{
    image = derivation {{
      name = "image";
      system = "x86_64-linux";
      builder = "/bin/sh";
      args = [ "-c" "/bin/mkdir $out{copies}" ];
    }};
  }};
}}
"#
    )
}

/// `imgbuild image pull` of a recipe on `flake`, which is all that a build does with nix.
fn pull(lab: &Lab, source: &str) -> lab::Ended {
    let disk = lab.path("flake/disk");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&disk)
        .arg("64M")
        .status();
    assert!(made.unwrap().success());
    let text = format!("[image]\nname = \"nixos\"\n\n[source]\nnixos = {source}\n");
    let recipe = lab.write("nixos.toml", text);
    lab.command(&["image", "pull", recipe.to_str().unwrap()])
        .env("HOME", lab.path("."))
        // The builder is this machine's shell, which nix's sandbox does not have. Nothing is to be had from elsewhere, and
        // a machine that was given nix for this test has no users for it.
        .env(
            "NIX_CONFIG",
            "sandbox = false\nbuild-users-group =\nsubstituters =",
        )
        .output()
        .unwrap()
        .into()
}

#[test]
fn the_image_that_a_flake_makes_is_built_and_found() {
    let lab = Lab::new("nixos");
    lab.write("flake/flake.nix", flake(&["nixos.qcow2"]));
    let ended = pull(&lab, r#"{ flake = "./flake#image" }"#).with_code(0);
    assert!(ended.stdout.contains("/nix/store/"), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("-image/nixos.qcow2"),
        "{}",
        ended.stdout
    );
}

#[test]
fn of_several_images_the_recipe_says_which() {
    let lab = Lab::new("nixos-several");
    lab.write("flake/flake.nix", flake(&["a.qcow2", "b.qcow2"]));
    pull(&lab, r#"{ flake = "./flake#image" }"#)
        .with_code(2)
        .saying("there are several")
        .saying("b.qcow2");
    let ended = pull(&lab, r#"{ flake = "./flake#image", file = "b.qcow2" }"#).with_code(0);
    assert!(ended.stdout.contains("-image/b.qcow2"), "{}", ended.stdout);
}

#[test]
fn a_flake_that_does_not_build_is_told_in_nix_words() {
    let lab = Lab::new("nixos-broken");
    lab.write("flake/flake.nix", flake(&["a.qcow2"]));
    pull(&lab, r#"{ flake = "./flake#nothing" }"#)
        .with_code(1)
        .saying("does not provide attribute");
}
