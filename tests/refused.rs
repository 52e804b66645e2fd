//! What is refused before, or without, any guest: each with its exit code, and nothing left behind.

mod lab;

use lab::{Image, Lab};

fn recipe(lab: &Lab, source: &str) -> String {
    let text = format!("[image]\nname = \"x\"\n[source]\n{source}\n[machine]\nmemory = \"128M\"\n");
    lab.write("x.toml", text).to_str().unwrap().to_owned()
}

#[test]
fn a_base_image_that_is_no_image() {
    let lab = Lab::new("no image");
    lab.write("page.html", "<html>not found</html>");
    lab.imgbuild(&["run", &recipe(&lab, "file = \"page.html\"")])
        .with_code(2)
        .saying("page.html");
    lab.assert_nothing_left();
}

#[test]
fn a_base_image_that_is_not_there() {
    let lab = Lab::new("no file");
    lab.imgbuild(&["run", &recipe(&lab, "file = \"nowhere.qcow2\"")])
        .with_code(2)
        .saying("nowhere.qcow2");
    lab.assert_nothing_left();
}

#[test]
fn a_base_image_that_is_another() {
    let lab = Lab::new("digest");
    let digest = "0".repeat(64);
    let source = format!("file = {:?}\nsha256 = \"{digest}\"", Image::Tiny.path());
    lab.imgbuild(&["run", &recipe(&lab, &source)])
        .with_code(6)
        .saying(&digest);
    lab.assert_nothing_left();
}

#[test]
fn a_disk_smaller_than_the_base_image() {
    let lab = Lab::new("small disk");
    let recipe = lab.recipe("small", Image::Tiny, "disk = \"64M\"\n");
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(2)
        .saying("the recipe asks for 64.00 MiB")
        .saying("small.toml:10:8");
    lab.assert_nothing_left();
}

#[test]
fn a_build_offline_whose_image_is_not_cached() {
    let lab = Lab::new("offline");
    let url = "https://images.invalid/base.qcow2";
    let source = format!("url = \"{url}\"\nsha256 = \"{}\"", "0".repeat(64));
    lab.imgbuild(&["run", "--offline", &recipe(&lab, &source)])
        .with_code(1)
        .saying(url)
        .saying("imgbuild image pull");
    lab.assert_nothing_left();
}

#[test]
fn two_recipes_for_one_output() {
    let lab = Lab::new("same output");
    let one = lab.recipe("one", Image::Tiny, "[output]\npath = \"out/same.qcow2\"\n");
    let two = lab.recipe("two", Image::Tiny, "[output]\npath = \"out/same.qcow2\"\n");
    lab.imgbuild(&["run", one.to_str().unwrap(), two.to_str().unwrap()])
        .with_code(2)
        .saying("same.qcow2");
    lab.assert_nothing_left();
}

#[test]
fn a_home_that_cannot_be_written() {
    let lab = Lab::new("no home");
    let recipe = lab.recipe("x", Image::Tiny, "");
    let output = lab
        .command(&["run", recipe.to_str().unwrap()])
        .env("IMGBUILD_HOME", "/proc/nowhere")
        .output()
        .unwrap();
    lab::Ended::from(output)
        .with_code(1)
        .saying("creating /proc/nowhere");
}

#[test]
fn a_secret_that_is_not_there() {
    let lab = Lab::new("no secret");
    let recipe = lab.recipe(
        "x",
        Image::Tiny,
        "[secrets]\nTOKEN = { env = \"LAB_NO_SUCH_VARIABLE\" }\n[[step]]\nrun = \"true\"\nsecrets = [\"TOKEN\"]\n",
    );
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(2)
        .saying("the environment has no LAB_NO_SUCH_VARIABLE");
    lab.assert_nothing_left();
}

#[test]
fn an_error_that_would_say_a_secret() {
    let lab = Lab::new("secret in an error");
    let rest = "[secrets]\nA = { command = \"echo hunter2000\" }\nB = { command = \"echo no hunter2000 >&2; exit 1\" }\n\
                [[step]]\nrun = \"true\"\nsecrets = [\"A\", \"B\"]\n";
    let recipe = lab.recipe("secret", Image::Tiny, rest);
    for format in ["human", "json"] {
        let ended = lab.imgbuild(&["run", "--format", format, recipe.to_str().unwrap()]);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("fetching the secret B"), "{said}");
        assert!(said.contains("no ********"), "{said}");
        let told = said.replace("echo no hunter2000", "");
        assert!(!told.contains("hunter2000"), "{said}");
    }
    lab.assert_nothing_left();
}

#[test]
fn an_output_that_cannot_be_written() {
    let lab = Lab::new("output");
    // Something that even root cannot do: its name is too long while it is not finished.
    let path = format!("{}.qcow2", "x".repeat(230));
    let rest = format!("[output]\npath = \"{path}\"\n");
    let recipe = lab.recipe("out", Image::Tiny, &rest);
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(1)
        .saying("trying to write beside")
        .saying("File name too long")
        .not_saying(" boot");
    lab.assert_nothing_left();
}
