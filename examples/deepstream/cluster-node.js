// A cluster node for deepstream servers from version 5 on that speaks the frames of the Python connectors, over Redis or Valkey.
'use strict'

const { randomBytes } = require('node:crypto')
const { performance } = require('node:perf_hooks')
const { STATE_REGISTRY_TOPIC, TOPIC } = require('@deepstream/protobuf/dist/types/all')
const Redis = require('ioredis')
const { Receiver } = require('./receiving')
const { Sender } = require('./sending')
const wire = require('./wire')

const MiB = 1024 * 1024
const DEFAULTS = {
  url: 'redis://127.0.0.1:6379',
  controlTopic: 'CONTROL',
  heartbeat: 5000, // milliseconds; a silent connection is noticed within it
  historyBytes: 4 * MiB, // of each topic, so much is kept to be sent again
  waitingBytes: 4 * MiB // of each topic, so much waits while Redis is away; then the oldest are given up
}

const QUICKEST = 60000 // for so long, the quickest frame of a node is the measure for its others
const ANSWER_DELAY = 20
const RETRY = 1000

const now = () => performance.now()
const nameOf = topic => TOPIC[topic] || STATE_REGISTRY_TOPIC[topic] || String(topic)
const privateTopic = server => `PRIVATE/${server}`

module.exports = class FramedClusterNode {
  constructor (options, services, config) {
    this.description = 'Cluster node that Python connectors understand'
    this.options = { ...DEFAULTS, ...options }
    this.name = config.serverName
    this.logger = services.logger
    this.id = randomBytes(16).toString('hex')
    this.callbacks = new Map() // by the number of deepstream's topic
    this.sender = new Sender(this.id, {
      ...this.options,
      gaveUp: (topic, count) => this.complain('full', `${count} messages on topic ${topic} were given up, since too much waits`)
    })
    this.receiver = new Receiver({
      heartbeat: this.options.heartbeat,
      patience: 12 * this.options.heartbeat,
      deliver: (topic, messages) => messages.forEach(message => this.onMessage(message)),
      report: (topic, sender, count) => this.log(`${count} messages of ${sender} on topic ${topic} were lost`),
      reject: (topic, sender) => this.complain('frame', `a frame on topic ${topic} has numbers that ${sender} has not given`)
    })
    this.isUp = false
    this.wasUp = false
    this.asked = new Map() // by topic: the questions that are answered together
    this.wanted = new Set() // topics whose numbers others want to know
    this.isAwaited = false // whether somebody who has come back waits to hear us
    this.quickest = new Map() // by node: how much its clock is behind ours, by the quickest of its recent frames
    this.floods = new Map() // by the kind of an error: until when it is not logged again, and how often it came since
  }

  // What deepstream calls.

  init () {
    this.receiver.listen(privateTopic(this.name), now())
    this.isReady = new Promise(resolve => { this.onReady = resolve })
    this.publisher = this.connect()
    this.subscriber = this.connect()
    this.subscriber.on('messageBuffer', (topic, payload) => this.onPayload(topic.toString(), payload))
    this.pinging = setInterval(() => this.ping(), this.options.heartbeat / 3)
    this.telling = setInterval(() => this.isUp && this.tell(this.sender.quiet(now())), this.options.heartbeat / 4)
  }

  whenReady () {
    return this.isReady
  }

  send (message) {
    this.publish(nameOf(message.topic), message)
  }

  sendDirect (server, message) {
    this.publish(privateTopic(server), message)
  }

  subscribe (topic, callback) {
    if (!this.callbacks.has(topic)) this.callbacks.set(topic, new Set())
    this.callbacks.get(topic).add(callback)
    const name = nameOf(topic)
    if (this.receiver.topics.has(name)) return
    this.receiver.listen(name, now())
    if (this.subscriber?.status !== 'ready') return
    this.subscriber.subscribe(name)
      .then(() => this.say({ topics: [name] }))
      .catch(() => this.subscriber.disconnect(true))
  }

  // Sends what waits, for a heartbeat at the most, and tells the others that no more will come.
  async close () {
    const end = now() + this.options.heartbeat
    do {
      await new Promise(resolve => setTimeout(resolve, 10)) // other services say good-bye first
    } while (now() < end && [...this.sender.lanes.values()].some(lane => !lane.isEmpty))
    await this.tell([...this.sender.lanes.keys()])
    await this.say({ isLeaving: true })
    this.isClosed = true
    const timers = [this.pinging, this.telling, this.asking, this.answering, this.informing, this.retrying]
    timers.forEach(timer => clearTimeout(timer))
    this.publisher.disconnect()
    this.subscriber.disconnect()
  }

  // The two connections. Each subscription is made anew on each, and whatever was on its way is sent again by us.

  connect () {
    const client = new Redis(this.options.url, {
      autoResendUnfulfilledCommands: false,
      autoResubscribe: false,
      commandTimeout: this.options.heartbeat / 3,
      connectTimeout: this.options.heartbeat,
      disconnectTimeout: 100, // a connection that is silent does not even close
      enableOfflineQueue: false,
      maxRetriesPerRequest: 0, // commands fail when their connection is lost
      retryStrategy: tries => Math.min(50 * 2 ** tries, 2000) * (0.5 + Math.random() / 2)
    })
    client.on('ready', () => this.restore())
    client.on('error', error => this.complain('redis', `Redis: ${error.message || error.code}`))
    client.on('close', () => {
      if (this.isUp && !this.isClosed) this.log('the connection to Redis is lost')
      this.isUp = false
    })
    return client
  }

  async restore () {
    clearTimeout(this.retrying)
    if (!this.areReady) return
    try {
      await this.subscriber.subscribe(this.options.controlTopic, ...this.receiver.topics.keys())
    } catch (error) {
      this.complain('subscribe', `cannot subscribe: ${error.message}`)
      if (!this.isClosed) this.retrying = setTimeout(() => this.restore(), RETRY)
      return
    }
    if (!this.areReady) return
    this.isUp = true
    this.receiver.askAgain(now())
    const counts = this.sender.counts([...this.sender.lanes.keys()], now())
    this.say({ counts, topics: [...this.receiver.topics.keys()], isBack: this.wasUp })
    this.wasUp = true
    this.sender.lanes.forEach(lane => this.pump(lane))
    this.schedule()
    this.onReady()
  }

  get areReady () {
    return this.publisher.status === 'ready' && this.subscriber.status === 'ready'
  }

  ping () {
    for (const client of [this.publisher, this.subscriber]) {
      if (client.status === 'ready') client.ping().catch(() => client.disconnect(true))
    }
  }

  // Sending.

  publish (topic, message) {
    this.pump(this.sender.add(topic, { fromServer: this.name, message }))
  }

  // Sends what waits on a topic, one frame after another; meanwhile, more may wait, and leaves together.
  async pump (lane) {
    if (lane.isBusy) return
    lane.isBusy = true
    let frame
    while (this.isUp && (frame = this.sender.next(lane, now()))) {
      try {
        await this.publisher.publish(lane.topic, frame)
        this.sender.landed(lane, true, now())
      } catch (error) {
        if (error.name !== 'ReplyError') { // the frame may have arrived, and is sent again on the next connection
          this.publisher.disconnect(true)
          break
        }
        this.refused(lane.topic, error)
        this.sender.landed(lane, false, now())
      }
    }
    lane.isBusy = false
  }

  // Logs a refusal. What was not sent because the connection is lost is no refusal, and is asked for again.
  refused (topic, error) {
    if (error.name === 'ReplyError') this.complain('refused', `Redis refuses what is published on topic ${topic}: ${error.message}`)
  }

  async say (control) {
    if (!this.isUp) return
    const body = wire.packControl({ ...control, clock: Math.round(now() * 1000) })
    const frame = wire.pack({ kind: wire.KIND.CONTROL, sender: this.id, serialization: 0 }, body)
    await this.publisher.publish(this.options.controlTopic, frame).catch(error => this.refused(this.options.controlTopic, error))
  }

  async tell (topics) {
    const counts = this.sender.counts(topics, now())
    if (counts.length) await this.say({ counts })
  }

  // Receiving.

  onPayload (topic, payload) {
    if (wire.isFrom(this.id, payload)) return
    try {
      const { frame, control, answer, messages } = wire.read(topic, payload, this.options.controlTopic)
      if (messages) this.receiver.take(topic, frame, messages, now())
      if (answer) this.receiver.answered(topic, frame, answer, now())
      if (control) this.onControl(frame, control)
    } catch (error) {
      this.complain('frame', `a payload of ${payload.length} bytes on topic ${topic} is not a connector's frame: ${error.message}`)
    }
    this.schedule()
  }

  onControl (frame, { counts, topics, questions, isBack, isLeaving, clock }) {
    const delay = this.delay(frame.sender, clock)
    this.receiver.told(frame.sender, frame.answers, counts, now())
    questions.filter(({ target }) => target === this.id).forEach(question => this.onQuestion(question, delay))
    if (isLeaving) {
      this.receiver.left(frame.sender, now())
      this.quickest.delete(frame.sender)
    }
    if (isBack) this.receiver.askAgain(now(), frame.sender)
    if (!topics.length && !isBack) return
    topics.forEach(topic => this.wanted.add(topic))
    this.isAwaited ||= isBack
    this.informing ??= setTimeout(() => this.inform(), Math.random() * ANSWER_DELAY)
  }

  // Tells what others want to know. Who has come back is asked for its numbers: it has not heard what we asked before.
  inform () {
    const counts = this.sender.counts([...this.wanted], now())
    const topics = this.isAwaited ? [...this.receiver.topics.keys()] : []
    if (counts.length || topics.length) this.say({ counts, topics })
    this.wanted.clear()
    this.isAwaited = false
    this.informing = null
  }

  onQuestion (question, delay) {
    const age = question.age === null ? null : question.age + delay * 1000
    if (!this.asked.has(question.topic)) this.asked.set(question.topic, [])
    this.asked.get(question.topic).push({ ...question, age })
    this.answering ??= setTimeout(() => this.answer(), 1)
  }

  answer () {
    this.answering = null
    for (const [topic, questions] of this.asked) {
      for (const frame of this.sender.answer(topic, questions, now())) {
        this.publisher.publish(topic, frame).catch(error => this.refused(topic, error))
      }
    }
    this.asked.clear()
  }

  // Returns how many milliseconds longer than the quickest of its sender's recent frames a frame was on its way.
  delay (sender, clock) {
    if (clock === null) return 0
    const offset = now() - clock / 1000
    const quickest = this.quickest.get(sender)
    if (!quickest || offset <= quickest.offset || now() - quickest.at > QUICKEST) {
      this.quickest.delete(sender)
      this.quickest.set(sender, { offset, at: now() })
      if (this.quickest.size > 1000) this.quickest.delete(this.quickest.keys().next().value)
      return 0
    }
    return Math.min(offset - quickest.offset, this.options.heartbeat)
  }

  // Sees that questions are asked in time.
  schedule () {
    clearTimeout(this.asking)
    if (!this.isUp || this.isClosed || !this.receiver.gaps.size) return
    this.asking = setTimeout(() => {
      const questions = this.receiver.due(now())
      if (questions.length) this.say({ questions })
      this.schedule()
    }, Math.max(this.receiver.nextDue - now(), 0))
  }

  onMessage (envelope) {
    const callbacks = this.callbacks.get(envelope?.message?.topic)
    if (!callbacks) this.complain('message', 'a message is for none of deepstream\'s topics')
    for (const callback of callbacks ?? []) {
      try {
        callback(envelope.message, envelope.fromServer)
      } catch (error) {
        this.complain('callback', `a message on topic ${nameOf(envelope.message.topic)} was not taken: ${error.stack}`)
      }
    }
  }

  log (text) {
    this.logger.error('PLUGIN_ERROR', text)
  }

  // Logs an error; those of the same kind within a second are only counted.
  complain (kind, text) {
    const { until = 0, more = 0 } = this.floods.get(kind) ?? {}
    if (now() < until) {
      this.floods.set(kind, { until, more: more + 1 })
      return
    }
    this.floods.set(kind, { until: now() + 1000, more: 0 })
    this.log(more ? `${text} (and ${more} more of this kind)` : text)
  }
}
