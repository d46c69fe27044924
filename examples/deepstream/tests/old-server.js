// A real deepstream server 2.4 with its own connector for Redis, and one client that is driven as in client.js:
// node old-server.js NAME REDIS_PORT
// The client is inside, since the server's websockets need a native module that no registry has.
'use strict'

const { EventEmitter } = require('node:events')
const path = require('node:path')
const readline = require('node:readline')
const Deepstream = require('deepstream.io')
const RedisConnector = require('deepstream.io-msg-redis')
const parser = require('deepstream.io/src/message/message-parser')
const builder = require('deepstream.io/src/message/message-builder')

const say = what => process.stdout.write(JSON.stringify(what) + '\n')

class Endpoint extends EventEmitter {
  setDeepstream () {}

  init () {
    this.isReady = true
    process.nextTick(() => this.emit('ready'))
  }
}

class Client extends EventEmitter {
  constructor () {
    super()
    Object.assign(this, { user: 'client', uuid: 1, isClosed: false })
  }

  sendNative (text) {
    for (const { topic, action, data } of parser.parse(text)) {
      if (topic === 'E' && action === 'EVT') say({ is: 'event', name: data[0], data: parser.convertTyped(data[1]) })
      if (topic === 'E' && action === 'A') say({ is: 'subscribed', name: data[1] })
    }
  }

  sendMessage (topic, action, data) { this.sendNative(builder.getMsg(topic, action, data)) }
  sendError (topic, type, text) { say({ is: 'error', data: `${type}: ${text}` }) }
  prepareMessage (text) { return text }
  sendPrepared (text) { this.sendNative(text) }
  finalizeMessage () {}
}

module.exports = Endpoint // the server loads it from this file

if (require.main === module) {
  const [name, port] = process.argv.slice(2)
  const server = new Deepstream({
    serverName: name,
    showLogo: false,
    logger: { name: 'default', options: { logLevel: 2 } },
    connectionEndpoints: { websocket: { name: null, path: __filename } }
  })
  server.set('messageConnector', new RedisConnector({ host: '127.0.0.1', port: Number(port) }))
  server.on('started', async () => {
    const client = new Client()
    const endpoint = server._options.connectionEndpoint
    const act = (action, ...data) => {
      const raw = builder.getMsg('E', action, data)
      endpoint.onMessages(client, parser.parse(raw))
    }
    say({ is: 'ready' })
    for await (const line of readline.createInterface({ input: process.stdin })) {
      const { do: what, name, data } = JSON.parse(line)
      if (what === 'subscribe') act('S', name)
      if (what === 'emit') act('EVT', name, builder.typed(data))
    }
    process.exit()
  })
  server.start()
}
