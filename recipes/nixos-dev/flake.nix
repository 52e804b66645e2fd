# The machine of nixos-dev.toml: `image` is its disk, `nixosConfigurations.dev` what `rebuild` in the guest switches to.
{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs = { self, nixpkgs }: {
    nixosConfigurations.dev = nixpkgs.lib.nixosSystem {
      system = "x86_64-linux";
      modules = [ ./configuration.nix ];
    };
    image = self.nixosConfigurations.dev.config.system.build.images.qemu;
  };
}
