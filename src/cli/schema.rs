//! `imgbuild schema`.

use clap::Args;

use crate::recipe::schema;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The schema of bundles instead
    #[arg(long)]
    bundle: bool,
}

pub fn run(arguments: &Arguments, screen: Screen) {
    let schema = match arguments.bundle {
        true => schema::bundle(),
        false => schema::recipe(),
    };
    screen.result(&format!("{schema:#}\n"), &schema);
}
