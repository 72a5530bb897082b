import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ITranslator, type TranslationBundle } from '@jupyterlab/translation';
import { CommandToolbarButton, refreshIcon, Toolbar, ToolbarButton } from '@jupyterlab/ui-components';
import { Panel } from '@lumino/widgets';
import { sandboxOf } from '../commands';
import { shieldIcon } from '../icons';
import { CommandIDs, DOMAIN, ISandboxes } from '../model/tokens';
import { SandboxList } from './panel';

/** The side panel with all sandboxes. */
export const panel: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:panel',
  description: 'A side panel with all sandboxes.',
  autoStart: true,
  requires: [ISandboxes, ITranslator],
  optional: [INotebookTracker, ICommandPalette, ILayoutRestorer],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxes,
    translator: ITranslator,
    notebooks: INotebookTracker | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null
  ) => {
    const trans = translator.load(DOMAIN);
    const widget = new Panel();
    widget.id = 'hyper-kernel-panel';
    widget.addClass('hyper-Panel');
    widget.title.icon = shieldIcon;
    widget.title.caption = trans.__('Sandboxes');
    widget.node.setAttribute('role', 'region');
    widget.node.setAttribute('aria-label', trans.__('Sandboxes'));
    widget.addWidget(tools(app, model, trans));
    const list = new SandboxList(model, app.commands, () => sandboxOf({}, model, notebooks)?.id, trans);
    notebooks?.currentChanged.connect(() => list.update());
    widget.addWidget(list);
    app.commands.addCommand(CommandIDs.showPanel, {
      label: trans.__('Show Sandboxes'),
      icon: shieldIcon,
      execute: () => app.shell.activateById(widget.id)
    });
    palette?.addItem({ command: CommandIDs.showPanel, category: trans.__('Sandbox') });
    app.shell.add(widget, 'left', { rank: 250, type: 'Sandboxes' });
    restorer?.add(widget, widget.id);
  }
};

function tools(app: JupyterFrontEnd, model: ISandboxes, trans: TranslationBundle): Toolbar {
  const bar = new Toolbar();
  const create = { commands: app.commands, id: CommandIDs.create, label: trans.__('New sandbox…') };
  bar.addItem('new', new CommandToolbarButton(create));
  bar.addItem('spacer', Toolbar.createSpacerItem());
  const refresh = { icon: refreshIcon, tooltip: trans.__('Refresh'), onClick: () => void model.refresh() };
  bar.addItem('refresh', new ToolbarButton(refresh));
  bar.node.setAttribute('aria-label', trans.__('Sandboxes'));
  return bar;
}
