// A real client of a deepstream server, driven by lines of JSON: node client.js PORT
// It reads {"do": "subscribe" | "emit" | "call" | "provide", "name", "data"}, and says {"is": "ready" | "event" | "result" | "error", …}.
'use strict'

const readline = require('node:readline')
const { DeepstreamClient } = require('@deepstream/client')

const say = what => process.stdout.write(JSON.stringify(what) + '\n')

async function main () {
  const client = new DeepstreamClient(`127.0.0.1:${process.argv[2]}/deepstream`, { subscriptionInterval: 0 })
  client.on('error', (error, event) => say({ is: 'error', data: `${event}: ${error}` }))
  await client.login({})
  say({ is: 'ready' })
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { do: what, name, data } = JSON.parse(line)
    if (what === 'subscribe') client.event.subscribe(name, got => say({ is: 'event', name, data: got }))
    if (what === 'emit') client.event.emit(name, data)
    if (what === 'call') {
      client.rpc.make(name, data).then(
        got => say({ is: 'result', name, data: got }),
        error => say({ is: 'error', name, data: String(error.message ?? error) })
      )
    }
    if (what === 'provide') client.rpc.provide(name, (got, response) => response.send([name, got]))
  }
  process.exit()
}

main()
