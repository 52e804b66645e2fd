# What scripts/bench-packer builds with Packer 1.6.6; recipe.toml is the same for imgbuild. Runs in an empty folder with
# the seed volume and the key two levels above it. Wherever a default of Packer's costs time and a careful user would change it,
# it is changed here; comments say which choices matter for time, and what was left alone.

variable "base" { type = string }
variable "sha256" { type = string }
variable "disk_mib" { type = string }

source "qemu" "guest" {
  # The cloud image is the disk. Packer hashes it and copies it as a whole. (use_backing_file would save the copy, but
  # then there is no conversion either and the result is not an image that stands alone.)
  disk_image   = true
  iso_url      = var.base
  iso_checksum = "sha256:${var.sha256}"

  accelerator  = "tcg"
  machine_type = "q35"
  cpus         = 2
  memory       = 1536
  disk_size    = "${var.disk_mib}M"
  net_device   = "virtio-net"

  # Packer's normal way to qcow2: qemu-img convert at the end, without compression.
  format           = "qcow2"
  skip_compaction  = false
  disk_compression = false
  output_directory = "output"
  vm_name          = "packer.qcow2"

  # VNC is there, and with it the default graphics card, as every Packer user has them. imgbuild's guest has neither.
  headless = true

  # boot_wait is left at its default, 10 s, as a user has it who types no boot command. On a machine without KVM it
  # costs nothing, since the guest is not up by then.

  communicator         = "ssh"
  ssh_username         = "bench"
  ssh_private_key_file = "../../key"
  ssh_timeout          = "15m"
  # QEMU accepts connections before the guest listens; with the default of 10, those use up the tries.
  ssh_handshake_attempts       = 500
  ssh_disable_agent_forwarding = true

  # Without it Packer kills QEMU. imgbuild powers off by ACPI.
  shutdown_command = "sudo shutdown -P now"
  shutdown_timeout = "5m"

  # The seed is a FAT volume on virtio-blk, as imgbuild's is. (cd_files would make a CD-ROM on AHCI, which Debian's
  # cloud kernel has no driver for.) A -drive or -device of one's own replaces all of Packer's, so the root disk and
  # the network card are here too.
  qemuargs = [
    # The same CPU model.
    ["-cpu", "max"],
    # cache=unsafe: flushes by the guest do not wait for the host's disk; imgbuild does the same. Not Packer's default.
    ["-drive", "file={{ .OutputDir }}/{{ .Name }},if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,detect-zeroes=unmap"],
    ["-drive", "file=../../seed.img,if=none,id=seed,format=raw,readonly=on"],
    # Without bootindex the firmware may start from the seed.
    ["-device", "virtio-blk-pci,drive=disk,bootindex=0"],
    ["-device", "virtio-blk-pci,drive=seed"],
    ["-device", "virtio-net,netdev=user.0"],
    ["-device", "virtio-rng-pci"],
    # Shortens cloud-init's search for its data, as imgbuild does.
    ["-smbios", "type=1,serial=ds=nocloud"],
  ]
}

build {
  sources = ["source.qemu.guest"]

  # SSH answers before cloud-init is done. Provisioning and power-off must not come in between; imgbuild waits too, by
  # the same file.
  provisioner "shell" {
    inline = ["until [ -e /run/cloud-init/result.json ]; do sleep 0.2; done"]
  }

  provisioner "shell" {
    script          = "provision.sh"
    execute_command = "chmod +x {{ .Path }}; sudo {{ .Path }}"
  }

  provisioner "shell" {
    inline = ["echo one | sudo tee /srv/app/last >/dev/null"]
  }
}
