// Has sigstore's own library look at a bundle. Ends with an error if it does not accept it.
//
//     node verify.cjs MODULES BUNDLE KEY.pem HINT
const fs = require('fs')
const path = require('path')
const [modules, bundle, key, hint] = process.argv.slice(2)
const load = (name) => require(path.join(modules, name))
const { bundleFromJSON } = load('@sigstore/bundle')
const { Verifier, toSignedEntity, toTrustMaterial } = load('@sigstore/verify')

// No transparency log and no certificates: trust is in the key alone.
const root = { tlogs: [], ctlogs: [], certificateAuthorities: [], timestampAuthorities: [] }
const trust = toTrustMaterial(root, (asked) => {
  if (asked !== hint) throw new Error(`the bundle wants the key ${asked}`)
  const publicKey = require('crypto').createPublicKey(fs.readFileSync(key))
  return { publicKey, validFor: () => true }
})
const verifier = new Verifier(trust, { tlogThreshold: 0, ctlogThreshold: 0, tsaThreshold: 0 })
const parsed = bundleFromJSON(JSON.parse(fs.readFileSync(bundle)))
verifier.verify(toSignedEntity(parsed))
