"""Has software that others wrote look at what imgbuild made. Ends with an error if that is not as it should be.

    verify.py dsse ENVELOPE KEY.pem KEYID
    verify.py statement STATEMENT
    verify.py subject STATEMENT IMAGE
    verify.py cyclonedx DOCUMENT
    verify.py spdx DOCUMENT
    verify.py purls DOCUMENT
"""

import hashlib
import json
import sys
from pathlib import Path


def dsse(envelope, key, keyid):
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    public = load_pem_public_key(Path(key).read_bytes())
    key = SSlibKey.from_crypto(public, keyid=keyid)
    envelope = Envelope.from_dict(json.loads(Path(envelope).read_text()))
    accepted = envelope.verify([key], 1)
    assert list(accepted) == [keyid], accepted
    assert envelope.payload_type == "application/vnd.in-toto+json"


def statement(path):
    """Reads it strictly: a field that the formats do not have is an error."""
    from google.protobuf.json_format import MessageToDict, Parse, ParseDict
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    parsed = Parse(Path(path).read_text(), statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    assert parsed.predicate_type == "https://slsa.dev/provenance/v1"
    predicate = ParseDict(MessageToDict(parsed.predicate), provenance_pb2.Provenance())
    assert predicate.build_definition.build_type
    assert len(predicate.build_definition.resolved_dependencies) >= 2
    assert predicate.run_details.builder.id
    assert predicate.run_details.metadata.started_on.seconds > 0


def subject(path, image):
    """What any verifier of in-toto does with the artifact."""
    from google.protobuf.json_format import Parse
    from in_toto_attestation.v1 import statement_pb2

    parsed = Parse(Path(path).read_text(), statement_pb2.Statement())
    digest = hashlib.sha256(Path(image).read_bytes()).hexdigest()
    found = [(s.name, s.digest["sha256"]) for s in parsed.subject]
    assert found == [(Path(image).name, digest)], (found, digest)


def cyclonedx(path):
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(Path(path).read_text())
    assert found is None, found
    # As it is read by others, references between its parts included.
    from cyclonedx.model.bom import Bom

    bom = Bom.from_json(json.loads(Path(path).read_text()))
    assert bom.validate()


def spdx(path):
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    found = validate_full_spdx_document(parse_file(path), "SPDX-2.3")
    assert not found, found


def purls(path):
    """Every package URL is in its canonical form."""
    from packageurl import PackageURL

    components = json.loads(Path(path).read_text())["components"]
    purls = [c["purl"] for c in components if "purl" in c]
    for purl in purls:
        again = PackageURL.from_string(purl).to_string()
        assert again == purl, (purl, again)
    print(len(purls))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
