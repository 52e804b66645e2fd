{ pkgs, modulesPath, ... }: {
  imports = [ "${modulesPath}/profiles/qemu-guest.nix" ];

  # What imgbuild needs of a guest: cloud-init, which makes the build's user, SSH, and sudo without a password for it.
  services.cloud-init.enable = true;
  services.cloud-init.network.enable = true;
  services.openssh.enable = true;
  security.sudo.wheelNeedsPassword = false;

  # A flake in /etc/nixos that its user may change, and one word to switch to it.
  nix.settings.experimental-features = [ "nix-command" "flakes" ];
  environment.systemPackages = with pkgs; [
    git
    (writeShellScriptBin "rebuild" ''exec sudo nixos-rebuild switch --flake /etc/nixos#dev "$@"'')
  ];
  system.stateVersion = "25.11";
}
