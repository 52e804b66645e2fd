//! What is known of Proxmox's behaviour, and so of this server's.

/// One behaviour. A test of the same name shows it.
pub struct Behaviour {
    /// Also the name of its test.
    pub id: &'static str,
    /// Which part of the API it is about.
    pub area: &'static str,
    /// What was seen.
    pub says: &'static str,
    pub known: Known,
}

/// How a behaviour is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Observed on 8.4.
    Observed,
    /// Read in Proxmox's source.
    Read,
}

use Known::{Observed, Read};

const fn row(area: &'static str, id: &'static str, known: Known, says: &'static str) -> Behaviour {
    Behaviour {
        id,
        area,
        says,
        known,
    }
}

const HTTP: &str = "HTTP";
const ERRORS: &str = "Errors";
const UPLOADS: &str = "Uploads";
const CREATING: &str = "Importing and creating";
const TASKS: &str = "Tasks";
const LOCKS: &str = "Locks";
const LIFE: &str = "Life of a VM";
const AGENT: &str = "Cloud-init and agent";
const CONSOLES: &str = "Consoles";
const RIGHTS: &str = "Permissions";

/// All of them.
#[rustfmt::skip]
pub const BEHAVIOURS: &[Behaviour] = &[
    row(HTTP, "chunked_bodies_are_refused", Observed,
        "A body with Transfer-Encoding: chunked is answered 501 `chunked transfer encoding not supported`, as plain text."),
    row(HTTP, "a_delete_takes_its_parameters_in_the_query", Observed,
        "A DELETE with a body is answered 501 `Unexpected content for method 'DELETE'`."),
    row(HTTP, "an_empty_body_is_no_json", Observed,
        "An empty POST that says it is application/json is answered 500 `malformed JSON string…`, as plain text."),
    row(HTTP, "json_may_have_booleans_numbers_and_arrays", Observed,
        "In a body in JSON, true stands for 1, and numbers and arrays are taken."),
    row(HTTP, "flags_in_forms_are_1_or_0", Observed,
        "A flag in a form is 1 or 0. `true` is answered 400."),
    row(HTTP, "an_equals_sign_in_a_forms_value_is_encoded", Observed,
        "A form's value ends at the next `=` unless that is percent-encoded: agent=enabled=1 says `enabled`."),
    row(HTTP, "a_large_body_is_refused", Observed,
        "A body of more than 512 KiB that is no upload is answered 501 `for data too large`."),
    row(HTTP, "idle_connections_are_closed", Observed,
        "A connection on which nothing comes for 5.0 s is closed."),
    row(HTTP, "http_1_1_is_all_it_speaks", Observed,
        "A client that offers HTTP/2 as well gets HTTP/1.1."),
    row(HTTP, "a_call_is_cut_after_30_seconds_and_goes_on", Observed,
        "A call that a daemon works on for more than 30 s is answered 596 `Connection timed out` without a body. It goes on."),
    row(HTTP, "lists_without_rights_are_empty", Observed,
        "Who may see nothing of a list gets an empty list, and no 403."),
    row(HTTP, "cluster_resources_lag", Observed,
        "/cluster/resources says what was so a while ago. /nodes/NODE/qemu says what is so."),
    row(HTTP, "nothing_follows_a_failure_on_its_connection", Read,
        "After an answer of 400 or more the connection is closed."),

    row(ERRORS, "the_reason_phrase_carries_the_message", Observed,
        "The message is in the reason phrase, and once more in the body, as {\"data\":null,\"message\":\"…\\n\"}."),
    row(ERRORS, "wrong_parameters_are_named", Observed,
        "Wrong parameters are answered 400 `Parameter verification failed.`, with `errors` by parameter."),
    row(ERRORS, "path_and_parameters_agree", Read,
        "A parameter that is in the path as well, with another value, is a 400."),
    row(ERRORS, "a_401_has_no_body", Observed,
        "No credentials: 401 `No ticket`. Wrong ones: 401 `Authentication failed!`. Neither has a body."),
    row(ERRORS, "a_missing_vm_is_a_500", Observed,
        "A VM that is not there is a 500 `Configuration file '…' does not exist`; without rights on its path, a 403."),
    row(ERRORS, "an_unknown_path_is_a_501", Observed,
        "A path that is not in the API is a 501 `Method 'GET …' not implemented`."),
    row(ERRORS, "an_unknown_node_is_a_500", Observed,
        "A node that is not there is a 500 `hostname lookup 'NODE' failed…`."),
    row(ERRORS, "a_stale_digest_is_refused", Observed,
        "A change with the digest of an older configuration is a 500 `checksum mismatch (file change by other user?)`."),

    row(UPLOADS, "upload_fields_come_in_one_order", Observed,
        "content, checksum-algorithm, checksum, then the file as `filename`. Another order is a 500 without a body."),
    row(UPLOADS, "upload_headers_are_taken_to_the_letter", Observed,
        "`Content-Disposition: form-data; name=\"…\"` and an unquoted boundary. What is written otherwise is not understood."),
    row(UPLOADS, "fields_after_the_file_are_appended_to_it", Observed,
        "The file goes on to the closing boundary. Fields behind it are ignored, and stored as a part of it."),
    row(UPLOADS, "a_stalled_upload_is_dropped", Observed,
        "An upload of which nothing comes for 5 s is dropped without an answer, and nothing of it stays."),
    row(UPLOADS, "a_large_upload_without_rights_is_cut_off", Observed,
        "A large upload with a wrong token, or without the privilege, ends in a broken pipe. A small one is a 403 without a body."),
    row(UPLOADS, "snippets_cannot_be_uploaded", Observed,
        "content is iso, vztmpl or import."),
    row(UPLOADS, "names_for_import_have_known_endings", Observed,
        "For import: .qcow2, .raw (.vmdk and .ova by the source). .img is refused there, and taken for iso."),
    row(UPLOADS, "names_are_made_plain", Observed,
        "`my iso+file.iso` is stored as `my_iso_file.iso`."),
    row(UPLOADS, "a_wrong_checksum_fails_in_the_task", Observed,
        "An upload with a wrong checksum is answered 200 with a UPID. Its task fails, and the file does not come to be."),
    row(UPLOADS, "an_upload_names_its_file_in_its_task_s_log", Read,
        "An upload's UPID has no id. The log says `target file: PATH`, once the checksum is right."),
    row(UPLOADS, "an_upload_replaces_what_is_there", Read,
        "An upload is copied over a file of its name. The list says by `ctime` when a file was changed last."),
    row(UPLOADS, "an_upload_with_a_ticket_needs_no_csrf_token", Read,
        "Uploads are the only calls other than GET that a ticket is enough for."),
    row(UPLOADS, "a_download_replaces_nothing", Observed,
        "download-url refuses a name that exists; with a checksum that the file has, it succeeds: `got correct file already`."),

    row(CREATING, "import_from_needs_the_size_0", Observed,
        "scsi0=STORE:0,import-from=STORE:import/NAME. Any other size is a 400."),
    row(CREATING, "only_root_imports_from_a_path", Observed,
        "import-from with an absolute path is for root@pam."),
    row(CREATING, "a_missing_source_fails_in_the_task", Observed,
        "Whether import-from names a file that is there is seen by the task, and not by the POST. Nothing stays of the VM."),
    row(CREATING, "an_import_keeps_its_format", Observed,
        "The disk has the source's format unless format= says another one."),
    row(CREATING, "the_configuration_names_the_disks", Observed,
        "The numbers of disks do not follow from their keys. Each format counts for itself."),
    row(CREATING, "nextid_reserves_nothing", Observed,
        "/cluster/nextid gives the same id to everybody until somebody has made the VM."),
    row(CREATING, "of_two_creates_one_is_too_late", Observed,
        "Of two creates of one id, one is told that it `already exists`."),
    row(CREATING, "creating_a_locked_id_fails", Observed,
        "Creating an id whose lock somebody has fails after 5 s."),
    row(CREATING, "a_create_succeeds_though_its_start_fails", Observed,
        "start=1 has a task of its own, qmstart. qmcreate is OK though that fails."),
    row(CREATING, "names_tags_and_descriptions_have_limits", Observed,
        "Names are DNS names, tags are in small letters and separated by `;`, descriptions have 8192 characters at most."),

    row(TASKS, "a_upid_says_what_for", Observed,
        "UPID:NODE:PID:PSTART:STARTTIME:TYPE:ID:USER@REALM!TOKEN: with numbers of eight hexadecimal digits."),
    row(TASKS, "a_task_ends_with_ok_or_a_message", Observed,
        "status `stopped`, exitstatus `OK` or the error. The log's last line is `TASK OK` or `TASK ERROR: …`."),
    row(TASKS, "warnings_are_a_success", Observed,
        "exitstatus `WARNINGS: 1` is a success."),
    row(TASKS, "a_log_comes_in_pages_of_50", Observed,
        "A log gives 50 lines unless limit= says otherwise. `total` says how many there are."),
    row(TASKS, "a_clones_task_has_the_id_of_its_source", Observed,
        "The UPID of qmclone has the id of the VM that is cloned."),
    row(TASKS, "an_unknown_upid_is_a_400", Observed,
        "A UPID of no task is a 400 with `no such task`."),
    row(TASKS, "an_aborted_clone_leaves_nothing", Observed,
        "DELETE of a clone's task ends it, and removes the new VM with its disks."),

    row(LOCKS, "a_clone_locks_source_and_target", Observed,
        "While a clone is made, PUT config on either is a 500 `can't lock file '/var/lock/qemu-server/lock-ID.conf' - got timeout`, after 10 s."),
    row(LOCKS, "start_and_delete_of_a_locked_vm_fail_in_their_tasks", Observed,
        "The calls are answered 200. Their tasks fail with the same message."),

    row(LIFE, "a_reboot_ends_when_the_guest_is_down", Observed,
        "qmreboot ends when the guest is down. Another process starts it again, though it be stopped in between."),
    row(LIFE, "stopping_what_is_stopped_is_ok", Observed,
        "stop and shutdown of a VM that does not run are OK."),
    row(LIFE, "starting_what_runs_fails_in_the_task", Observed,
        "start of a VM that runs: task error `VM ID already running`."),
    row(LIFE, "a_shutdown_ends_with_its_timeout", Observed,
        "A guest that is not down by then: task error `VM quit/powerdown failed - got timeout`. With forceStop=1 it is stopped."),
    row(LIFE, "what_runs_is_not_deleted_nor_made_a_template", Observed,
        "Either is a 500 at once."),
    row(LIFE, "a_template_does_not_start", Observed,
        "start of a template is a task error. There is no way back from a template."),
    row(LIFE, "linked_clones_are_of_templates", Observed,
        "full=0 of another VM is a 500 `Linked clone feature is not supported for '…'`; with storage= or format= it is a 500 too."),
    row(LIFE, "raw_disks_have_linked_clones_too", Read,
        "A linked clone is in qcow2, whatever the format of the template's disk is."),
    row(LIFE, "a_template_outlives_its_linked_clones", Observed,
        "Deleting a template with linked clones: task error `base volume '…' is still in use by linked cloned`."),
    row(LIFE, "disks_that_nobody_names_stay_behind", Observed,
        "DELETE without destroy-unreferenced-disks=1 leaves disks that the configuration does not name."),
    row(LIFE, "deleting_a_volume_asks_nobody", Observed,
        "DELETE of a disk in /content does not look whether a VM has it."),
    row(LIFE, "deleting_what_is_gone_is_ok", Read,
        "DELETE in /content of a volume that is not there: the task is OK. It needs Datastore.Allocate, for uploads too."),
    row(LIFE, "memory_of_what_runs_is_pending", Observed,
        "A changed memory of a VM that runs is pending: config?current=1 has the old one, and /pending both."),
    row(LIFE, "a_clone_is_another_machine", Observed,
        "A clone has another MAC address, UUID and vmgenid."),
    row(LIFE, "a_clone_has_the_tags_of_its_source", Read,
        "Tags are copied; name= and description= say others, tags cannot be said. Until it is made, it has `lock: clone` alone."),
    row(LIFE, "a_detached_disk_can_be_attached_again", Read,
        "delete=scsi0 keeps the disk as unused0. A drive with its volume has it again, and there is no unused0 any more."),
    row(LIFE, "disks_are_plugged_into_what_runs", Read,
        "scsiN and virtioN of a VM that runs are plugged in and out at once. ideN and sataN are pending, without an error."),
    row(LIFE, "without_hotplug_disks_are_pending", Read,
        "hotplug= without `disk` makes such changes pending. The task is OK."),
    row(LIFE, "a_boot_disk_is_not_plugged_out", Read,
        "delete= of a disk in boot: order= of a VM that runs is pending, and a 400 with `hotplug problem - can't unplug bootdisk 'scsi0'`."),
    row(LIFE, "a_plugged_disk_is_known_by_its_key_and_may_be_read_only", Read,
        "The guest's SCSI disk of scsiN has the designator drive-scsiN. With ro=1 it cannot be written to."),

    row(LIFE, "uefi_without_a_disk_for_it_is_a_warning", Read,
        "start with bios=ovmf and no efidisk0 works for this once, and ends with `WARNINGS: 1`."),
    row(LIFE, "a_vm_moves_with_its_local_disks", Read,
        "migrate of a VM that does not run copies disks on local storages, but no linked clones, and no CD-ROMs."),

    row(AGENT, "sshkeys_are_encoded_once_more", Observed,
        "sshkeys is percent-encoded (%20, never +; keys joined by %0A), and then once more for the form."),
    row(AGENT, "the_cloudinit_drive_is_made_at_each_start", Observed,
        "STORE:cloudinit is a drive whose content follows the configuration from start to start, with `package_upgrade: true`."),
    row(AGENT, "passwords_do_not_come_back", Observed,
        "cipassword reads back as **********."),
    row(AGENT, "agent_errors_say_what_is_missing", Observed,
        "500: `No QEMU guest agent configured`, `VM ID is not running`, `QEMU guest agent is not running`."),

    row(CONSOLES, "a_terminal_is_a_task_a_port_and_a_ticket_for_it", Read,
        "termproxy starts a task vncproxy, which waits 10 s for a connection to its port. Its ticket is for user, VM and port, and good for 40 s."),
    row(CONSOLES, "a_console_begins_with_a_login_and_ok", Read,
        "The first line on the WebSocket is `USER:TICKET`. The answer is `OK`, and then what `qm terminal` says; `2` is a sign of life."),
    row(CONSOLES, "what_cannot_be_read_is_said_on_the_console", Read,
        "A VM that does not run, or has no such device, has a terminal too: it says so, and ends."),
    row(CONSOLES, "a_console_has_one_reader_at_a_time", Read,
        "QEMU gives what a guest says to one reader, and nobody keeps it. The next one hears nothing until the first has gone."),
    row(CONSOLES, "a_websocket_takes_whole_masked_frames", Read,
        "pveproxy ends a WebSocket on which a frame is in parts or has no mask. Its own frames are binary and of 128 KiB at most."),
    row(RIGHTS, "consoles_need_vm_console", Read,
        "termproxy and vncwebsocket need VM.Console on the VM."),
    row(RIGHTS, "the_agent_needs_vm_monitor", Observed,
        "On 8.x, agent calls need VM.Monitor."),
    row(RIGHTS, "later_releases_have_other_privileges_for_the_agent", Read,
        "9.x has no VM.Monitor: VM.GuestAgent.Audit asks, VM.GuestAgent.Unrestricted does all."),
    row(RIGHTS, "bridges_need_sdn_use", Observed,
        "A network card on a bridge needs SDN.Use on /sdn/zones/localnetwork/BRIDGE."),
    row(RIGHTS, "grants_on_longer_paths_replace", Observed,
        "A grant on a longer path takes the place of all that was inherited from above."),
    row(RIGHTS, "raw_devices_are_for_root", Observed,
        "args, serial devices of the host and hostpci addresses are for root@pam. Others use mapping= with Mapping.Use."),
    row(RIGHTS, "a_ticket_needs_the_csrf_token", Read,
        "Who calls with a ticket's cookie needs its CSRFPreventionToken for all but GET."),
];
