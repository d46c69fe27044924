// The cluster node on a Redis that does what a test says.
'use strict'

const assert = require('node:assert/strict')
const { EventEmitter, once } = require('node:events')
const test = require('node:test')
const wire = require('../wire')

const clients = []

class FakeRedis extends EventEmitter {
  constructor () {
    super()
    this.status = 'connecting'
    this.channels = []
    this.published = []
    clients.push(this)
  }

  set (status) {
    this.status = status
    this.emit(status)
  }

  async subscribe (...channels) {
    this.channels.push(...channels)
    await new Promise(resolve => setImmediate(resolve))
  }

  async publish (topic, payload) {
    this.published.push({ topic, ...wire.read(topic, payload, 'CONTROL') })
    this.emit('published')
  }

  async ping () {}

  disconnect () {}
}

require.cache[require.resolve('ioredis')] = { exports: FakeRedis }
const ClusterNode = require('../cluster-node')

const EVENT = 4

function start (context, options) {
  const errors = []
  const node = new ClusterNode(options, { logger: { error: (kind, text) => errors.push(text) } }, { serverName: 'a' })
  node.init()
  context.after(() => node.close())
  const [publisher, subscriber] = clients.splice(0)
  publisher.set('ready')
  return { node, errors, publisher, subscriber }
}

test('a topic that is subscribed while a connection is restored is subscribed there', async context => {
  const { node, publisher, subscriber } = start(context)
  subscriber.set('ready')
  node.subscribe(EVENT, () => {})
  await node.whenReady()
  assert.ok(subscriber.channels.includes('EVENT'))
  const { control } = await until(publisher, ({ control }) => control)
  assert.deepEqual(control.topics, ['PRIVATE/a', 'EVENT'])
})

test('what is sent while Redis is away leaves together when it is back, in order', async context => {
  const { node, errors, publisher, subscriber } = start(context)
  subscriber.set('ready')
  await node.whenReady()
  publisher.set('close')
  for (let number = 0; number < 3; number++) node.send({ topic: EVENT, number })
  publisher.set('ready')
  const { messages } = await until(publisher, ({ messages }) => messages)
  assert.deepEqual(messages.map(({ message }) => message.number), [0, 1, 2])
  assert.ok(await until(publisher, ({ control }) => control?.isBack))
  assert.deepEqual(errors, ['the connection to Redis is lost'])
})

test('what Redis refuses is logged, and what comes after it is sent', async context => {
  const { node, errors, publisher, subscriber } = start(context)
  subscriber.set('ready')
  await node.whenReady()
  const { publish } = publisher
  publisher.publish = async () => {
    publisher.publish = publish
    throw Object.assign(new Error('NOPERM'), { name: 'ReplyError' })
  }
  node.send({ topic: EVENT, number: 0 })
  node.send({ topic: EVENT, number: 1 })
  const { frame } = await until(publisher, ({ messages }) => messages)
  assert.equal(frame.number, 1)
  assert.deepEqual(errors, ['Redis refuses what is published on topic EVENT: NOPERM'])
})

test('numbers that fell due while Redis was away are told when it is back', async context => {
  const { node, publisher, subscriber } = start(context, { heartbeat: 20 })
  subscriber.set('ready')
  await node.whenReady()
  node.send({ topic: EVENT })
  await until(publisher, ({ messages }) => messages)
  publisher.set('close')
  await new Promise(resolve => setTimeout(resolve, 10 * 20)) // longer than the last of them
  publisher.set('ready')
  const told = () => publisher.published.filter(({ control }) => control?.counts.length && !control.isBack)
  await until(publisher, () => told().length)
  assert.deepEqual(told()[0].control.counts.map(({ topic, number }) => [topic, number]), [['EVENT', 1]])
})

async function until (publisher, isWanted) {
  for (;;) {
    const found = publisher.published.find(isWanted)
    if (found) return found
    await once(publisher, 'published')
  }
}
